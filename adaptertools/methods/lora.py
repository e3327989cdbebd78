"""LoRA and its family: W + s·B·A.  https://arxiv.org/abs/2106.09685

s is alpha / r, or alpha / sqrt(r) when rank-stabilised; formats resolve it. Shapes on disk, after
peft/tuners/lora/layer.py: Linear A (r, in), B (out, r); Conv A (r, in, *k), B (out, r, 1…);
Embedding A (r, vocab), B (dim, r); a base that stores (in, out) takes the transposed product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from adaptertools.update.shift import Shift
from adaptertools.update.truncate import Truncate

peft_type = "LORA"

tensors = {
    "lora_A": "down projection (r, in)",
    "lora_B": "up projection (out, r)",
    "lora_B.bias": "bias of the up projection (out)",
    "lora_embedding_A": "down projection of an embedding (r, vocab)",
    "lora_embedding_B": "up projection of an embedding (dim, r)",
    "lora_magnitude_vector": "DoRA's magnitudes",
    "lora_diag": "KaSA's singular values (r)",
}

_CONVERT = (
    "The adapter assumes a changed base. Save it again with PEFT's "
    "path_initial_model_for_weight_conversion, which makes a plain LoRA of it."
)
_LOFTQ = "LoftQ's factors make up for the rounding of a quantised base; on another base they err."

# init_lora_weights that leave the base as it is: the factors are a plain LoRA.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_CHANGED_INITS = {"pissa": _CONVERT, "olora": _CONVERT, "corda": _CONVERT, "lora_ga": _CONVERT,
                  "loftq": _LOFTQ}  # fmt: skip

# Config keys that, when set, mean something other than a fixed change of weights.
_REFUSED = {
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens; no fixed weight does "
    "that. Serve it as an adapter.",
    "arrow_config": "Arrow routes between adapters per token; no fixed weight does that. "
    "Merge one of its adapters instead.",
    "use_qalora": "QALoRA pools its input in groups, and PEFT cannot merge it either. "
    "Serve it as an adapter.",
    "target_parameters": "Updates of fused expert parameters are not merged yet. "
    "Serve it as an adapter for now.",
    "megatron_config": "Megatron's tensors may be shards of the real ones. "
    "Export the adapter to plain PEFT first.",
    "enable_lora": "This is the grouped LoRA of PEFT before 0.3. "
    "Load and save it with a PEFT of its time, then with a current one.",
}

# Tensors that only some adapters have, and the config key that says so.
_FLAGS = {
    "lora_magnitude_vector": "use_dora",
    "lora_diag": "kasa_config",
    "lora_B.bias": "lora_bias",
}

# Everything else that a LoraConfig of any PEFT release says (0.0.1 to 0.21.2), which a merge
# reads elsewhere or has no use for.
_KNOWN = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "kasa_config",
        "layer_replication",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "merge_weights",
        "modules_to_save",
        "monteclora_config",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "trainable_token_indices",
        "use_bdlora",
        "use_dora",
        "use_rslora",
        "velora_config",
        "lora_B_layout",
    ]
)


def check(config: Mapping[str, Any]) -> None:
    """Refuse what is no fixed change of weights, and every set key that no PEFT release knows."""
    for key, why in _REFUSED.items():
        if config.get(key):
            raise Unsupported(f"{key} is set in adapter_config.json. {why}")
    init = config.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        name = str(init).lower()
        for start, why in _CHANGED_INITS.items():
            if name.startswith(start):
                raise Unsupported(f'init_lora_weights is "{shown(init)}". {why}')
        if name not in _PLAIN_INITS:
            raise Unsupported(
                f"init_lora_weights is {shown(init)!r}, which no PEFT release up to 0.21 knows. "
                "If it leaves the base as it is, set it to true."
            )
    for key in sorted(config.keys() - _KNOWN - _REFUSED.keys()):
        if config[key]:
            raise Unsupported(
                f"adapter_config.json sets {shown(key)} to {shown(config[key])}, which no PEFT "
                "release up to 0.21 knows. It may change the result. Remove it if it does not."
            )


def updates(site: Site) -> Iterator[Update]:
    """Give the updates of the weight: KaSA's truncation, then the product, or DoRA."""
    _check_flags(site)
    low, by_column = _product(site)
    if site.config.get("kasa_config"):
        if "lora_diag" not in site.entry.parts:
            raise Unreadable(
                f"{shown(site.entry.target)} has no lora_diag, and kasa_config is set."
            )
        yield Truncate(site.entry.rank)
    if "lora_magnitude_vector" in site.entry.parts:
        yield _dora(site, low, by_column)
    else:
        if site.config.get("use_dora"):
            raise Unreadable(
                f"{shown(site.entry.target)} has no lora_magnitude_vector, and use_dora is set. "
                "The file is incomplete; save the adapter again."
            )
        yield LowRank(low.up, low.down, low.scale * site.scale)
        if site.attention and site.entry.nested and _mha_times(site) == 2:
            yield LowRank(low.up, low.down, low.scale * site.scale)


def _check_flags(site: Site) -> None:
    """Refuse a tensor that the config does not switch on: PEFT would leave it out silently."""
    for role, key in _FLAGS.items():
        if role in site.entry.parts and not site.config.get(key):
            raise Unreadable(
                f"{shown(site.entry.target)} has a {role}, and {key} is not set in "
                f"adapter_config.json. Set {key} if it was used in training, or remove the tensor."
            )


def bias_updates(site: Site) -> Iterable[Update]:
    """Give the update of the bias: s·(bias of B)."""
    part = site.entry.parts.get("lora_B.bias")
    if part is None:
        return []
    if site.bias is None:
        raise Mismatch(
            f"{shown(site.entry.target)} has a bias on lora_B, and the base has no bias there to "
            "add it to. PEFT cannot merge it either. Serve it as an adapter."
        )
    return [Shift(Factor(part), site.entry.scale * site.scale)]


def _product(site: Site) -> tuple[LowRank, bool]:
    """Give s·B·A in the base's orientation, and whether DoRA's norms are over stored columns."""
    parts, scale = site.entry.parts, site.entry.scale
    if "lora_embedding_A" in parts:
        low = LowRank(
            Factor(_ranked(site, "lora_embedding_A"), transposed=True),
            Factor(_part(site, "lora_embedding_B"), transposed=True),
            scale,
        )
        return low, True
    a, b = _ranked(site, "lora_A"), _part(site, "lora_B")
    if len(a.shape) > 2 and a.shape[1] != (*site.weight.shape, 0, 0)[1]:
        raise Unsupported(
            f"{shown(site.entry.target)}: lora_A is {list(a.shape)}, the convolution "
            f"{list(site.weight.shape)}. A grouped convolution has no single product that merges; "
            "PEFT refuses it too. Serve it as an adapter."
        )
    blocks_a, blocks_b = _blocks(site)
    down = Factor(a, blocks=blocks_a)
    up = Factor(b, blocks=blocks_b, diagonal=parts.get("lora_diag"))
    if not site.transposed:
        return LowRank(up, down, scale), False
    up_t = Factor(b, blocks=blocks_b, diagonal=parts.get("lora_diag"), transposed=True)
    return LowRank(Factor(a, blocks=blocks_a, transposed=True), up_t, scale), True


def _part(site: Site, role: str) -> TensorSpec:
    try:
        return site.entry.parts[role]
    except KeyError:
        raise Unreadable(
            f"{shown(site.entry.target)} has no {role}. Half a pair cannot be applied. "
            "The run was probably killed while saving; save the adapter again."
        ) from None


def _ranked(site: Site, role: str) -> TensorSpec:
    """Give the down projection, whose rows must be the rank that the scale was made with."""
    part = _part(site, role)
    if part.rows != site.entry.rank:
        raise Mismatch(
            f"{shown(site.entry.target)}: the config gives it rank {site.entry.rank}, its {role} "
            f"has {part.rows} rows. The scale alpha / r would be a guess. "
            "Correct r or rank_pattern in adapter_config.json."
        )
    return part


def _blocks(site: Site) -> tuple[int, int]:
    """Number of diagonal blocks that A and B are stored as. BD-LoRA, peft/…/variants.py."""
    config = site.config.get("use_bdlora")
    if not config:
        return 1, 1
    # PEFT looks for each pattern anywhere in the module's name.
    a, b = (
        any(p in site.entry.target for p in config.get(f"target_modules_bd_{x}") or ())
        for x in "ab"
    )
    count = int(config.get("nblocks", 1))
    return (count if a else 1), (count if b and not a else 1)


def _dora(site: Site, low: LowRank, by_column: bool) -> Dora:
    part = site.entry.parts["lora_magnitude_vector"]
    magnitude = Factor(part)
    wanted = low.shape[1] if by_column else low.shape[0]
    if magnitude.spec.rows * magnitude.spec.columns != wanted:
        raise Mismatch(
            f"{shown(site.entry.target)}: the DoRA magnitude is {list(part.shape)}, "
            f"the weight has {wanted} outputs."
        )
    return Dora(low, magnitude, by_column, site.scale)


def _mha_times(site: Site) -> int:
    """How often out_proj's update counts: PEFT up to 0.21.2 adds it twice (peft#3774)."""
    if site.mha_out_proj is None:
        raise Unsupported(
            f"{shown(site.entry.target)} is the out_proj of a MultiheadAttention. PEFT up to "
            "0.21.2 adds its update twice, in training and in merging (peft#3774), and the file "
            "does not say which was meant. Pass --mha-out-proj twice to get what that PEFT "
            "computes, --mha-out-proj once for W + s·B·A."
        )
    return {"once": 1, "twice": 2}[site.mha_out_proj]
