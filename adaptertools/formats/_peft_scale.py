"""The rank and the scale that a LoRA's config gives to one module or one parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.errors import Unreadable, shown
from adaptertools.patterns import pattern_value


def scaled(config: Mapping[str, Any], name: str) -> tuple[int, float]:
    """Give rank and scale, after the patterns.

    s = alpha / r, or alpha / sqrt(r) when rank-stabilised (arXiv:2312.03732). Raises Unreadable
    for a rank that is none, Unsafe for a pattern that could run for ever.
    """
    rank = pattern_value(config, "rank_pattern", name, config.get("r", 8))
    alpha = pattern_value(config, "alpha_pattern", name, config.get("lora_alpha", 8))
    if type(rank) is not int or not 0 < rank < 2**31:
        raise Unreadable(f"r or rank_pattern gives {shown(name)} rank {shown(rank)}.")
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def possible(config: Mapping[str, Any], target: str) -> tuple[str, ...]:
    """Give the names that a module's rank and scale may go by: its own, or its parameters'.

    Which of them a tensor of a module in `target_parameters` is for, the base says.
    """
    listed = [str(name).rpartition(".") for name in config.get("target_parameters") or ()]
    whole = [last for parent, _, last in listed if parent and f".{target}".endswith(f".{parent}")]
    bare = [last for parent, _, last in listed if not parent]
    return (*(f"{target}.{last}" for last in (*whole, *bare)), *(() if whole else (target,)))
