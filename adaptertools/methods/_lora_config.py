"""What a LoRA config may say: what merges, what is refused and why, what no release knows.

Facts from peft/tuners/lora/config.py of PEFT 0.0.1 to 0.21.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.errors import Unsupported, shown

_CONVERT = (
    "The adapter assumes a changed base. Save it again with PEFT's "
    "path_initial_model_for_weight_conversion, which makes a plain LoRA of it."
)
_BASE = f"{_CONVERT} `adaptertools convert --to plain --base BASE` makes one of the base alone."
_LOFTQ = "LoftQ's factors make up for the rounding of a quantised base; on another base they err."

# init_lora_weights that leave the base as it is: the factors are a plain LoRA.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_CHANGED_INITS = {"pissa_niter": _CONVERT, "pissa": _BASE, "olora": _BASE, "corda": _CONVERT,
                  "lora_ga": _CONVERT, "loftq": _LOFTQ}  # fmt: skip

# Config keys that, when set, mean something other than a fixed change of weights.
_REFUSED = {
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens; no fixed weight does "
    "that. Serve it as an adapter.",
    "arrow_config": "Arrow routes between adapters per token; no fixed weight does that. "
    "Merge one of its adapters instead.",
    "use_qalora": "QALoRA pools its input in groups, and PEFT cannot merge it either. "
    "Serve it as an adapter.",
    "megatron_config": "Megatron's tensors may be shards of the real ones. "
    "Export the adapter to plain PEFT first.",
    "enable_lora": "This is the grouped LoRA of PEFT before 0.3. "
    "Load and save it with a PEFT of its time, then with a current one.",
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
        "target_parameters",
        "task_type",
        "trainable_token_indices",
        "use_bdlora",
        "use_dora",
        "use_rslora",
        "velora_config",
        "lora_B_layout",
        "unsloth_fused_expert_lora",
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
