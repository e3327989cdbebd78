"""PEFT's config of a LoRA whose every module has a rank and an alpha of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any


def scaled_config(modules: Mapping[str, tuple[int, float]], **more: Any) -> dict[str, Any]:
    """Give the config for these (rank, alpha) by target: the usual ones, and patterns for others.

    Patterns are full names, so that one cannot mean another module too.
    """
    rank = _usual(r for r, _ in modules.values())
    alpha = _usual(a for _, a in modules.values())
    return {
        "peft_type": "LORA", "r": int(rank), "lora_alpha": whole(alpha), "bias": "none",
        "rank_pattern": {t: r for t, (r, _) in modules.items() if r != rank},
        "alpha_pattern": {t: whole(a) for t, (_, a) in modules.items() if a != alpha},
        "target_modules": sorted(modules), "lora_dropout": 0.0, "use_rslora": False,
        "use_dora": False, "inference_mode": True, "init_lora_weights": True,
        "modules_to_save": None, "lora_bias": False,
    } | more  # fmt: skip


def whole(alpha: float) -> float:
    """Give a whole number as such: some readers take no other."""
    return int(alpha) if alpha == int(alpha) else alpha


def _usual(values: Any) -> float:
    counted = Counter(values)
    return float(max(counted, key=lambda v: (counted[v], v)))
