"""What of each method a plain LoRA can hold: its update as B·A, where it has few enough rows.

`convert --to plain` writes it; with --allow-lossy the nearest of a rank where it has full rank.
"""

from __future__ import annotations

from collections.abc import Mapping

_FULL = "nearly, with the base and --allow-lossy: its update has full rank"

# peft_type -> "exactly …", "nearly …" or "no: …"; LoRA is one.
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
    "LORA": "it is one; PiSSA and OLoRA exactly, with the base: rank 2r; DoRA and KaSA nearly, "
    "with the base and --allow-lossy",
    "MISS": "exactly, at rank r, with the base's shapes; bat nearly, with --allow-lossy",
    "OFT": _FULL,
    "OSF": "exactly, with the base: twice its trained rank",
    "PEANUT": "exactly, with the base: rank r",
    "PSOFT": "exactly, with the base: rank r",
    "PVERA": "exactly, with the base's shapes",
    "RANDLORA": _FULL,
    "ROAD": _FULL,
    "SHIRA": _FULL,
    "SUPERTUNING": _FULL,
    "TINYLORA": "exactly, with the base for the order of its modules",
    "TRAINABLE_TOKENS": "no: it replaces rows of an embedding, which are no B·A",
    "UNILORA": "exactly, with the base for the order of its modules",
    "VBLORA": "exactly",
    "VERA": "exactly, with the base's shapes",
    "WAVEFT": _FULL,
}
