"""What of each method a plain LoRA can hold: its update as B·A, where it has few enough rows.

`merge`, then `extract`, makes a LoRA of the nearest low rank of whatever changes a weight.
"""

from __future__ import annotations

from collections.abc import Mapping

_FULL = "nearly: its update has full rank; merge it, then extract"

# peft_type -> "exactly …", "nearly: …" or "no: …".
LORA_FORMS: Mapping[str, str] = {
    "ADALORA": "exactly",
    "BEFT": "no: it changes biases only",
    "BOFT": _FULL,
    "C3A": _FULL,
    "DEFT": "exactly, with the base: rank r",
    "DELORA": "exactly",
    "FOURIERFT": _FULL,
    "FROD": _FULL,
    "GLORA": _FULL,
    "GRALORA": "exactly, at rank k·r + hybrid_r",
    "HIRA": _FULL,
    "HRA": "exactly, with the base: rank r",
    "IA3": _FULL,
    "LN_TUNING": "no: it changes norms",
    "LOHA": "exactly, at rank r²",
    "LOKR": "exactly, at the rank of w1 times that of w2",
    "LORA": "it is one; not with DoRA, nor with KaSA",
    "MISS": "exactly, at rank r; not bat",
    "OFT": _FULL,
    "OSF": "exactly, with the base: twice its trained rank",
    "PEANUT": "exactly, with the base: rank r",
    "PSOFT": "exactly, with the base: rank r",
    "PVERA": "exactly",
    "RANDLORA": _FULL,
    "ROAD": _FULL,
    "SHIRA": _FULL,
    "SUPERTUNING": _FULL,
    "TINYLORA": "exactly",
    "TRAINABLE_TOKENS": "as trainable_token_indices of one, not as B·A",
    "UNILORA": "exactly",
    "VBLORA": "exactly",
    "VERA": "exactly",
    "WAVEFT": _FULL,
}
