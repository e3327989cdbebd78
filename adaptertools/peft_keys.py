"""PEFT's tensor names, taken apart: `base_model.model.` + module + role.

Names in the wild carry wrappers of the training loop, doubled prefixes and adapter names that were
left in; each is taken off and counted. The facts are in peft/utils/save_and_load.py.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

PREFIX = "base_model.model."
ROWS = "trainable_tokens_delta"
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_LAST = frozenset({"weight", "bias"})
_DEFAULT = "default"  # what PEFT calls an adapter that nobody named
_SPECIAL = _WRAPPERS | {"base_model", "module", "base_layer", "token_adapter", "modules_to_save",
                        "original_module"}  # fmt: skip


class Key(NamedTuple):
    """One tensor name: the module, the role of the tensor there, and what surrounded them."""

    target: str
    role: str  # "lora_A", "lora_B.bias", … ; "" for a whole tensor, whose name is `target`
    nested: int = 0  # how many `base_layer` were in the name
    wrapper: str = ""  # "modules_to_save", "original_module" or "token_adapter"
    adapter: str = ""  # an adapter name that was left in
    depth: int = 0  # how many of the `base_layer` stood directly before the role


def parse(name: str, marker: str, junk: Counter[str]) -> Key:
    """Take one name apart; `marker` starts the method's own components, such as `lora_`."""
    parts = name.split(".")
    if _usual(parts) and name.count(marker) == 1 and parts[-2].startswith(marker):
        role = parts[-2] if parts[-1] == "weight" else f"{parts[-2]}.bias"
        return Key(".".join(parts[2:-2]), role)
    parts = _unwrapped(parts, junk)
    depth = _depth(parts, marker)
    if nested := parts.count("base_layer"):
        parts = [p for p in parts if p != "base_layer"]
    for at, part in enumerate(parts):
        if part.startswith(marker):
            return _own(parts, at, nested, marker)._replace(depth=depth)
        if part == "token_adapter" and parts[at + 1 :][:1] == [ROWS]:
            return Key(".".join(parts[:at]), ROWS, nested, part, ".".join(parts[at + 2 :]))
        if part == "token_adapter":
            # The embedding itself, saved along because it was resized.
            return Key(".".join([*parts[:at], *parts[at + 1 :]]), "", nested + 1)
        if part in ("modules_to_save", "original_module"):
            rest = parts[at + 1 :]
            left = rest.pop(0) if len(rest) > 1 and part == "modules_to_save" else ""
            return Key(".".join([*parts[:at], *rest]), "", nested, part, left)
    return Key(".".join(parts), "", nested)


def _depth(parts: list[str], marker: str) -> int:
    """Count the `base_layer` directly before the role: one for each further parameter inside."""
    at = next((i for i, part in enumerate(parts) if part.startswith(marker)), 0)
    return next((n for n in range(at) if parts[at - 1 - n] != "base_layer"), at)


def _usual(parts: list[str]) -> bool:
    """Tell whether only one prefix is to be taken off, and nothing is wrapped."""
    return (
        len(parts) > 4
        and parts[0] == "base_model"
        and parts[1] == "model"
        and parts[-1] in _LAST
        and _SPECIAL.isdisjoint(parts[2:])
    )


def _unwrapped(kept: list[str], junk: Counter[str]) -> list[str]:
    if not _WRAPPERS.isdisjoint(kept):
        junk.update(p for p in kept if p in _WRAPPERS)
        kept = [p for p in kept if p not in _WRAPPERS]
    prefixes = 0
    while True:
        if kept[:2] == ["base_model", "model"]:
            kept, prefixes = kept[2:], prefixes + 1
        elif kept[:1] == ["module"]:
            kept = kept[1:]
            junk["module"] += 1
        else:
            break
    if prefixes > 1:
        junk[PREFIX.rstrip(".")] += prefixes - 1
    elif not prefixes:
        junk["(no base_model.model prefix)"] += 1
    return kept


def shared(name: str, method: str) -> str:
    """Give the role of a tensor that all modules share, `base_model.vera_A`; empty for others."""
    parts = [p for p in name.split(".") if p not in _WRAPPERS and p != "module"]
    if parts[0] == "base_model":
        parts = parts[1:]
    ours = bool(parts) and parts[0].startswith(f"{method.lower()}_")
    return ".".join(p for p in parts if p != _DEFAULT) if ours else ""


def _own(parts: list[str], at: int, nested: int, marker: str) -> Key:
    """Read `lora_A.weight`, `lora_A.<adapter>.weight`, `lora_embedding_A.<adapter>` …"""
    role, rest = parts[at], parts[at + 1 :]
    suffix = rest.pop() if rest and rest[-1] in _LAST else ""
    if marker != "lora_":  # other methods have names below their own: `glora_A.Xd`
        role = ".".join([role, *(p for p in rest if p != _DEFAULT)])
        rest = [p for p in rest if p == _DEFAULT]
    role += ".bias" if suffix == "bias" else ""
    # MonteCLoRA's sampler has parameters of its own, which are no adapter name.
    left = "" if "sampler" in role else ".".join(rest)
    return Key(".".join(parts[:at]), role, nested, "", left)
