"""What a config says of an adapter, whoever wrote it; it is repeated, never believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools import schema
from adaptertools.errors import shown

# Where each library says it: dotted keys.
_PEFT = {"base": "base_model_name_or_path", "method": "peft_type", "revision": "revision",
         "task": "task_type", "rank": "r", "alpha": "lora_alpha",
         "peft_version": "peft_version"}  # fmt: skip
_PLACES: Mapping[str, Mapping[str, str]] = {
    "peft": _PEFT,
    "mlx": {"base": "model", "method": "fine_tune_type", "rank": "lora_parameters.rank",
            "scale": "lora_parameters.scale"},
    "adapterhub": {"base": "model_name", "method": "config.architecture", "rank": "config.r",
                   "alpha": "config.alpha"},
    "tunix": {"base": "base_model", "rank": "lora_rank", "alpha": "lora_alpha"},
    "lerobot": {"base": "base_model"},
}  # fmt: skip

# What makes a LoRA another one than the plain W + s·B·A: config key -> its name.
_VARIANTS = {
    "use_rslora": "rsLoRA",
    "use_dora": "DoRA",
    "lora_bias": "a bias on lora_B",
    "kasa_config": "KaSA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "megatron_config": "Megatron",
    "layer_replication": "layer replication",
    "target_parameters": "fused experts",
    "trainable_token_indices": "trained tokens",
    "enable_lora": "grouped LoRA of PEFT before 0.3",
}


def said(dialect: str, config: Mapping[str, Any], what: str) -> Any:
    """Give what the config says of it; None where it says nothing."""
    value: Any = config
    place = _PLACES.get(dialect, {}).get(what)
    for key in place.split(".") if place else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value if place else None


def word(dialect: str, config: Mapping[str, Any], what: str) -> str | None:
    """Give what the config says of it as a word; None where it says nothing, or no word."""
    value = said(dialect, config, what)
    return value if isinstance(value, str) and value else None


def number(dialect: str, config: Mapping[str, Any], what: str) -> float | None:
    """Give what the config says of it as a number; None where it says nothing, or no number."""
    value = said(dialect, config, what)
    sensible = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
    return value if sensible else None


def variants(dialect: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Name what is special about a PEFT adapter."""
    if dialect != "peft":
        return ()
    found = [name for key, name in _VARIANTS.items() if config.get(key)]
    bias = config.get("bias")
    if isinstance(bias, str) and bias not in ("", "none"):
        found.append(f"bias {shown(bias, 40)}")
    init = config.get("init_lora_weights", True)
    if init is False:
        found.append("random start")
    elif isinstance(init, str) and init.lower() != "true":
        found.append(f"init {shown(init, 40)}")
    return tuple(found)


def at_least(dialect: str, config: Mapping[str, Any]) -> str | None:
    """Give the oldest PEFT that has the method and all keys of a config that are known; or None."""
    method = word(dialect, config, "method")
    if dialect != "peft" or method is None:
        return None
    name = f"{method.lower()}.schema.json"
    folder = schema.folder() / "adapter_config"
    if not folder.is_dir() or name not in {path.name for path in folder.iterdir()}:
        return None  # the method is a stranger's word: it becomes part of no path
    known = schema.load(f"adapter_config/{name.removesuffix('.schema.json')}")
    parts = [known, *(known["properties"].get(key, {}) for key in config)]
    since = [str(part["x-since"]) for part in parts if "x-since" in part]
    return max(since, key=_version, default=None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
