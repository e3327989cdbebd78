"""What marks the tensors of each PEFT method, and those that all its modules share."""

from __future__ import annotations

from collections.abc import Iterable

from adaptertools.adapter import Saved
from adaptertools.errors import Mismatch, shown
from adaptertools.peft_keys import shared

# PEFT_TYPE_TO_PREFIX_MAPPING. Others: their name in lower case. LoRA comes before AdaLoRA.
_MARKERS = {
    "LORA": "lora_", "ADALORA": "lora_", "LOHA": "hada_", "VERA": "vera_lambda_",
    "PVERA": "pvera_lambda_", "BONE": "bone_",
}  # fmt: skip

# Every peft_type of PEFT 0.21.2 that stores tensors by module.
METHODS = (
    "LORA", "ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "DEFT", "DELORA",
    "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA",
    "LOKR", "MISS", "OFT", "OSF", "PEANUT", "POLY", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHADOW",
    "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
    "BONE",
)  # fmt: skip


def marker(method: str) -> str:
    """Give what a method's own tensors begin with, after the module's name."""
    return _MARKERS.get(method, method.lower() + "_")


def common(names: Iterable[str], method: str) -> dict[str, str]:
    """Give the tensors that all modules share, `base_model.vera_A`, with their roles."""
    if marker(method) == "lora_":  # LoRA and AdaLoRA have none
        return {}
    return {name: role for name in names if (role := shared(name, method))}


def check_method(saved: Iterable[Saved], method: str) -> None:
    """Refuse tensors of one method under the config of another."""
    others = {marker(m): m for m in reversed(METHODS) if marker(m) != marker(method)}
    for item in saved:
        for part in () if item.own else item.name.split("."):
            if kind := next((m for start, m in others.items() if part.startswith(start)), None):
                raise Mismatch(
                    f"adapter_config.json says {shown(method)}, and {shown(item.spec.name)} is a "
                    f"tensor of {kind}. Put the config beside the weights that it was saved with."
                )
