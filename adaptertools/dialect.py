"""Whose adapter is it? `adapter_config.json` is a name that several libraries use.

Each rule rests on what that library writes; the first that fits decides. What fits none is unknown,
which is no fault: the file may belong to a program that has nothing to do with models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from adaptertools.jsontext import read

NAMES: Mapping[str, str] = {
    "peft": "Hugging Face PEFT",
    "mlx": "MLX-LM",
    "adapterhub": "AdapterHub's adapters",
    "tunix": "Tunix",
    "lerobot": "LeRobot",
    "gguf": "llama.cpp (GGUF)",
    "kohya": "kohya's sd-scripts",
    "diffusers": "diffusers",
    "litgpt": "LitGPT",
    "torchtune": "torchtune",
    "tinker": "Tinker",
    "lfs": "a Git LFS pointer",
    "unknown": "no library that adaptertools knows",
    "none": "none, as there is no adapter_config.json",
}
CONFIG = "adapter_config.json"
_POINTER = b"version https://git-lfs"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# What every PEFT release writes whatever the method is, and LoRA's own.
_PEFT_KEYS = frozenset(
    {"base_model_name_or_path", "inference_mode", "lora_alpha", "lora_dropout", "target_modules",
     "task_type"}
)  # fmt: skip

_Config = Mapping[str, Any]
_RULES: Mapping[str, Callable[[_Config], bool]] = {
    "peft": lambda c: "peft_type" in c,
    # mlx_lm/tuner/utils.py reads these; the rest of its file are the arguments of the training.
    "mlx": lambda c: bool({"fine_tune_type", "lora_parameters", "lora_layers"} & c.keys()),
    "adapterhub": lambda c: (
        isinstance(c.get("config"), dict)
        and bool({"model_class", "model_type", "model_name"} & c.keys())
    ),
    "tunix": lambda c: "tunix" in _word(c, "framework"),
    "lerobot": lambda c: _word(c, "base_model").startswith("lerobot/"),
}
# Weights that tell where a config does not.
_FILES = {
    "peft": WEIGHTS,
    "mlx": ("adapters.safetensors", "adapters.npz"),
    "adapterhub": ("pytorch_adapter.bin",),
}


def dialect(data: bytes, value: object = None, files: Collection[str] = ()) -> str:
    """Tell which library wrote a config; gives a key of NAMES.

    `data` are its bytes, empty where there is none, `value` what they say as JSON, where that is
    known already. `files` are the names beside it, which decide where the config does not.
    """
    if not data:
        return "none"
    if data.startswith(_POINTER):
        return "lfs"
    if value is None and (value := read(data).value) is None:
        return _of_unreadable(data, files)
    if not isinstance(value, dict):
        return _beside(files)
    config: _Config = value
    found = next((name for name, fits in _RULES.items() if fits(config)), "")
    return found or _without_type(config, files)


def _word(config: _Config, key: str) -> str:
    value = config.get(key)
    return value if isinstance(value, str) else ""


def _without_type(config: _Config, files: Collection[str]) -> str:
    """Take for PEFT's what has its keys and lost its peft_type."""
    known = len(_PEFT_KEYS & config.keys())
    return "peft" if known > 2 or (known and _beside(files) == "peft") else "unknown"


def _of_unreadable(data: bytes, files: Collection[str]) -> str:
    found = _beside(files)
    return "peft" if found == "unknown" and b"peft_type" in data.replace(b"\0", b"") else found


def _beside(files: Collection[str]) -> str:
    return next((name for name, own in _FILES.items() if any(f in files for f in own)), "unknown")
