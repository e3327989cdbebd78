"""What PEFT refuses when several fields are looked at together, as data.

Each rule is a ValueError of peft/tuners/*/config.py, or of the layers that are built from a config
alone, with the release that brought it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adaptertools.checks._peft import Config, release, said

Broken = Callable[["Fields"], bool]


class Fields:
    """A config, and where it is silent the defaults of its type: `f.r`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return said(self._config, name)

    def __contains__(self, name: str) -> bool:
        return name in self._config


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that does not go together; types are separated by blanks."""

    types: str
    since: str
    field: str
    text: str
    broken: Broken
    fix: str


_MANY = "ADALORA C3A DEFT FOURIERFT HIRA HRA LORA MISS BONE PSOFT SHADOW UNILORA WAVEFT"
_VARIANTS = ("use_dora", "arrow_config", "use_bdlora", "alora_invocation_tokens",
             "velora_config", "monteclora_config", "kasa_config")  # fmt: skip
_MIRROR = ("shadow_num_hidden_layers", "shadow_hidden_size", "shadow_num_attention_heads",
           "shadow_intermediate_size")  # fmt: skip


def _is_text(f: Fields) -> bool:
    return isinstance(f.target_modules, str)


def _variants(f: Fields) -> bool:
    # An empty nested config becomes one with its defaults, so it counts.
    chosen = [getattr(f, name) for name in _VARIANTS]
    active = [value for value in chosen if value is not None and value is not False and value != []]
    return len(active) + int(f.init_lora_weights == "mica") > 1


def _overlap(f: Fields) -> bool:
    one, two = ((f.use_bdlora or {}).get(f"target_modules_bd_{x}") or [] for x in "ab")
    return bool(set(one) & set(two))


def _lengths(f: Fields) -> bool:
    tokens = f.cpt_token_ids if f.cpt_token_ids is not None else [0]
    others = (f.cpt_mask, f.cpt_tokens_type_mask)
    return any(other is not None and len(other) != len(tokens) for other in others)


def _outside(f: Fields) -> bool:
    inner, outer = f.feedforward_modules, f.target_modules
    return isinstance(inner, list) and isinstance(outer, list) and not set(inner) <= set(outer)


def _unparsed(f: Fields) -> bool:
    there = "peft_version" in f and "use_cayley_neumann" in f  # PEFT's defaults do not count
    return there and bool(f.use_cayley_neumann) and release(f.peft_version) is None


RULES: tuple[Rule, ...] = (
    Rule(
        f"{_MANY} DELORA", "0.6.0", "layers_to_transform",
        "layers_to_transform is set, and target_modules is a text",
        lambda f: _is_text(f) and f.layers_to_transform is not None,
        "Say the layers in the expression, or list the names in target_modules.",
    ),
    Rule(
        _MANY, "0.6.0", "layers_pattern",
        "layers_pattern is set, and target_modules is a text",
        lambda f: _is_text(f) and f.layers_pattern is not None,
        "Say the layers in the expression, or list the names in target_modules.",
    ),
    Rule(
        "ADALORA BOFT DEFT DELORA FOURIERFT FROD HRA LILY LOHA LOKR LORA OFT PEANUT PSOFT PVERA "
        "SHADOW TINYLORA VBLORA VERA WAVEFT", "0.14.0", "layers_pattern",
        "layers_pattern is set, and layers_to_transform is not",
        lambda f: bool(f.layers_pattern) and f.layers_to_transform is None,
        "Set layers_to_transform too, or take layers_pattern out.",
    ),
    Rule(
        "LORA ADALORA", "0.9.0", "use_dora", "use_dora is on, and megatron_config is set",
        lambda f: bool(f.use_dora and f.megatron_config), "Turn one of them off.",
    ),
    Rule(
        "LORA ADALORA", "0.14.0", "loftq_config",
        "init_lora_weights is loftq, and loftq_config is empty",
        lambda f: f.init_lora_weights == "loftq" and not f.loftq_config,
        "Set init_lora_weights to true; it only matters in training.",
    ),
    Rule(
        "LORA ADALORA", "0.14.0", "lora_bias",
        "lora_bias is on, and init_lora_weights is no truth value",
        lambda f: bool(f.lora_bias) and f.init_lora_weights not in (True, False),
        "Set init_lora_weights to true; it only matters in training.",
    ),
    Rule(
        "LORA ADALORA", "0.14.0", "lora_bias", "lora_bias is on, and use_dora too",
        lambda f: bool(f.lora_bias and f.use_dora), "Turn one of them off.",
    ),
    Rule(
        "LORA", "0.20.0", "use_dora", "several variants of LoRA are on at once", _variants,
        f"Keep one of {', '.join(_VARIANTS)}.",
    ),
    Rule(
        "LORA ADALORA", "0.19.0", "use_bdlora", "a module is in both lists of use_bdlora", _overlap,
        "Keep it in one of target_modules_bd_a and target_modules_bd_b.",
    ),
    Rule(
        "LORA", "0.15.0", "r", "init_lora_weights is orthogonal, and r is odd",
        lambda f: f.init_lora_weights == "orthogonal" and f.r % 2 == 1,
        "Set init_lora_weights to true; it only matters in training.",
    ),
    Rule(
        "LORA", "0.17.0", "target_parameters",
        "target_parameters does not go together with dropout, DoRA, lora_bias, velora_config or "
        "kasa_config",
        lambda f: bool(f.target_parameters) and bool(
            f.lora_dropout or f.use_dora or f.lora_bias
            or f.velora_config is not None or f.kasa_config is not None
        ),
        "Set lora_dropout to 0 and the others to their defaults, if it was trained so.",
    ),
    Rule(
        "ADALORA", "0.11.0", "use_dora", "AdaLoRA knows no DoRA",
        lambda f: bool(f.use_dora), "Set use_dora to false.",
    ),
    Rule(
        "ADALORA", "0.11.0", "loftq_config", "AdaLoRA knows no LoftQ",
        lambda f: f.init_lora_weights == "loftq", "Set init_lora_weights to true.",
    ),
    Rule(
        "ADALORA", "0.15.0", "total_step", "total_step is not set",
        lambda f: f.total_step is None or f.total_step <= 0,
        "Write how many steps it was trained for.",
    ),
    Rule(
        "ADALORA", "0.15.0", "tinit", "tinit and tfinal leave no step between them",
        lambda f: (f.total_step or 0) > 0 and f.tinit >= f.total_step - f.tfinal,
        "Write the total_step that it was trained for.",
    ),
    Rule(
        "ADAMSS", "0.20.0", "use_asa", "use_asa is on, and its schedule is empty",
        lambda f: bool(f.use_asa) and (
            f.mask_interval <= 0 or f.init_warmup >= f.final_warmup
            or f.asa_target_subspaces <= 0 or f.asa_schedule_exponent <= 0
        ),
        "init_warmup is less than final_warmup, and the others are more than 0.",
    ),
    Rule(
        "BOFT", "0.11.0", "boft_block_size", "boft_block_size and boft_block_num: one must be 0",
        lambda f: (f.boft_block_size != 0) == (f.boft_block_num != 0),
        "Keep the one that it was trained with, and set the other to 0.",
    ),
    Rule(
        "OFT", "0.14.0", "oft_block_size",
        "oft_block_size is missing, so this is OFT as it was before PEFT 0.14",
        lambda f: "oft_block_size" not in f,
        "Use PEFT 0.13, or train anew: the weights mean something else today.",
    ),
    Rule(
        "OFT", "0.14.0", "oft_block_size", "r and oft_block_size: one must be 0",
        lambda f: "oft_block_size" in f and (f.r != 0) == (f.oft_block_size != 0),
        "Keep the one that it was trained with, and set the other to 0.",
    ),
    Rule(
        "OFT", "0.18.0", "peft_version", "use_cayley_neumann is on, and peft_version is none",
        _unparsed, "Write the PEFT version that it was trained with.",
    ),
    Rule(
        "CARTRIDGE", "0.19.0", "num_frozen_tokens", "more tokens are frozen than there are",
        lambda f: f.num_frozen_tokens > f.num_virtual_tokens,
        "num_frozen_tokens is at most num_virtual_tokens.",
    ),
    Rule(
        "CPT", "0.18.0", "task_type", "CPT is for CAUSAL_LM only",
        lambda f: f.task_type != "CAUSAL_LM", "Set task_type to CAUSAL_LM.",
    ),
    Rule(
        "CPT", "0.14.0", "cpt_token_ids",
        "cpt_token_ids, cpt_mask and cpt_tokens_type_mask differ in length", _lengths,
        "Give each token its place in both masks.",
    ),
    Rule(
        "GRALORA", "0.19.0", "r", "r cannot be divided by gralora_k",
        lambda f: f.r % f.gralora_k != 0, "Write the rank that it was trained with.",
    ),
    Rule(
        "IA3", "0.6.0", "feedforward_modules",
        "feedforward_modules has names that target_modules lacks", _outside,
        "Add them to target_modules.",
    ),
    Rule(
        "PROMPT_TUNING MULTITASK_PROMPT_TUNING", "0.10.0", "prompt_tuning_init",
        "prompt_tuning_init is TEXT, and text or tokenizer are not given",
        lambda f: f.prompt_tuning_init == "TEXT" and (
            not f.tokenizer_name_or_path or f.prompt_tuning_init_text is None
        ),
        "Set prompt_tuning_init to RANDOM: it only matters in training.",
    ),
    Rule(
        "PROMPT_TUNING MULTITASK_PROMPT_TUNING", "0.7.0", "tokenizer_kwargs",
        "tokenizer_kwargs is set, and prompt_tuning_init is not TEXT",
        lambda f: bool(f.tokenizer_kwargs) and f.prompt_tuning_init != "TEXT",
        "Take tokenizer_kwargs out.",
    ),
    Rule(
        "PSOFT", "0.19.0", "use_cayley_neumann", "use_cayley_neumann is on with no terms or range",
        lambda f: bool(f.use_cayley_neumann) and (
            f.num_cayley_neumann_terms <= 0
            or (f.cayley_neumann_eps is not None and not 0 < f.cayley_neumann_eps < 1)
        ),
        "num_cayley_neumann_terms is at least 1, cayley_neumann_eps between 0 and 1.",
    ),
    Rule(
        "SHADOW", "0.21.0", "shadow_model",
        f"shadow_model is not mirror, and one of {', '.join(_MIRROR)} is set",
        lambda f: f.shadow_model != "mirror" and any(getattr(f, n) is not None for n in _MIRROR),
        "Take those out: the model brings its own.",
    ),
    Rule(
        "SUPERTUNING", "0.21.0", "lora_alpha", "lora_alpha is set, and r is not",
        lambda f: f.r is None and f.lora_alpha is not None, "Write the rank, or no lora_alpha.",
    ),
    Rule(
        "SUPERTUNING", "0.21.0", "lora_dropout", "lora_dropout is 1",
        lambda f: f.lora_dropout == 1, "Write the dropout that it was trained with.",
    ),
)  # fmt: skip
