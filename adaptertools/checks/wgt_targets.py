"""WGT: which modules the config means, as PEFT decides it, against those that have tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any

from adaptertools.checks import _names, _regex, check
from adaptertools.errors import first
from adaptertools.facts import Found, Result, Weights

Config = Mapping[str, Any]
_TIED = ("lm_head", "embed_tokens", "wte", "embed_out", "embed_in", "shared")


@check("WGT006", "the config targets what the file holds", fix="Add them to target_modules.")
def targeted(config: Config, weights: Weights) -> Result:
    """Tensors of modules that the config does not target are dropped without a word.

    PEFT adapts the modules that target_modules names (by the end of their names, or by an
    expression), less those of exclude_modules and modules_to_save, in the layers of
    layers_to_transform; then it looks for their tensors, and at no others.
    """
    if config.get("peft_type") != "LORA" or config.get("target_parameters"):
        return
    modules = list(_names.modules(weights.tensors))
    named = _named(config.get("target_modules"), modules)
    if named is None:
        return
    without = _named(config.get("exclude_modules"), modules) or set()
    saved = _names.to_save(config)
    faults: dict[str, list[str]] = {}
    for module in modules:
        fault = _left_out(module, config, named, without, saved)
        if fault:
            faults.setdefault(fault, []).append(module)
    words = {"target_modules": "are not among target_modules",
             "exclude_modules": "are excluded by exclude_modules",
             "modules_to_save": "lie in what modules_to_save names",
             "layers_to_transform": "lie outside layers_to_transform"}  # fmt: skip
    for key, lost in faults.items():
        yield Found(
            text=f"{len(lost)} of {len(modules)} adapted modules {words[key]}: {first(lost, 3)}.",
            pointer=f"/{key}", hint="" if key == "target_modules" else f"Correct {key}.",
        )  # fmt: skip


def _left_out(
    module: str, config: Config, named: Collection[str], without: Collection[str], saved: list[str]
) -> str:
    """Name the key by which PEFT passes a module over; empty where it adapts it."""
    whole = module.removesuffix(".out_proj")  # which MultiheadAttention brings along
    if module not in named and whole not in named:
        tied = config.get("ensure_weight_tying") and any(m.endswith(_TIED) for m in named)
        return "" if tied and module.endswith(_TIED) else "target_modules"
    if module in without:
        return "exclude_modules"
    if any(f".{name}." in f".{module}." for name in saved):
        return "modules_to_save"
    # An expression chooses layers by itself.
    chosen = isinstance(config.get("target_modules"), list) and _other_layer(module, config)
    return "layers_to_transform" if chosen else ""


def _named(value: object, modules: Iterable[str]) -> set[str] | None:
    """Give the modules that a list of names or an expression means; None where nobody can say."""
    if isinstance(value, list):
        return {module for module, _ in _names.meant(modules, _names.names(value))}
    if not isinstance(value, str) or value.lower() == "all-linear":
        return None
    try:
        return set(_regex.matching([value], list(modules))[0])
    except (re.error, _regex.TooSlow):
        return None  # CFG011 and SEC008 say so


def _other_layer(module: str, config: Config) -> bool:
    said = config.get("layers_to_transform")
    layers = [said] if isinstance(said, int) else said
    if not isinstance(layers, list) or not layers:
        return False
    pattern = config.get("layers_pattern")
    patterns = [pattern] if isinstance(pattern, str) and pattern else _names.names(pattern)
    if any(not re.fullmatch(r"\w+", p) for p in patterns):
        return False
    # Without a pattern, PEFT wants something before the name that the number belongs to.
    usable = (m for m in _numbers(module) if (m[0] in patterns if patterns else m[2]))
    found = next(usable, None)
    return found is None or found[1] not in layers


def _numbers(module: str) -> list[tuple[str, int, int]]:
    """Give every number in a module's name, what stands before it, and how many parts before."""
    parts = module.split(".")
    return [
        (before, int(part), i)
        for i, (before, part) in enumerate(pairwise(parts[:-1]))
        if part.isascii() and part.isdigit() and len(part) < 10
    ]
