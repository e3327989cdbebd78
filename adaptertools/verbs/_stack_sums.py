"""The figures of a whole stack, from those of its modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adaptertools.errors import first
from adaptertools.report import Finding
from adaptertools.verbs._stack_match import Named
from adaptertools.verbs._stack_modules import Recipe
from adaptertools.verbs._stack_stored import Said

_FAINT = 0.5  # cosines below this, and an adapter is hardly there any more


def summed(recipe: Recipe, said: Sequence[Said], dtype: str) -> dict[str, Any]:
    """Give the facts of the report: totals are of squares, as energy is."""
    kept = [s for s in said if s.rank]
    total = sum(s.norm**2 for s in said)
    held = sum(s.energy * s.norm**2 for s in said)
    off = sum(s.rounding**2 * s.energy * s.norm**2 for s in kept)
    return {
        "adapters": [_adapter(each, said) for each in recipe.named],
        "options": recipe.options.as_json() | {"weight": [rule.text for rule in recipe.rules]},
        "dtype": dtype,
        "rank": max((s.rank for s in said), default=0),
        "needed": max((s.needed for s in said), default=0),
        "energy": held / total if total else 1.0,
        "rounding": (off / held) ** 0.5 if held else 0.0,
        "likeness": _likeness(said),
        "modules": [s.as_json() for s in said],
        "parameters": sum(s.rank * sum(s.shape) for s in said),
    }


def _likeness(said: Sequence[Said]) -> float | None:
    """Give the cosine between what is kept and Σ wᵢΔWᵢ, over all modules; None where it is that."""
    known = [s.beside for s in said if s.beside is not None]
    dot, kept, plain = (sum(each[at] for each in known) for at in range(3))
    return dot / (kept * plain) ** 0.5 if kept and plain else None


def _adapter(each: Named, said: Sequence[Said]) -> dict[str, Any]:
    pairs = [(s.survival[each.ref], s.norms[each.ref]) for s in said if each.ref in s.norms]
    whole = sum(norm**2 for _, norm in pairs)
    left = sum((share * norm) ** 2 for share, norm in pairs)
    return {
        "ref": each.ref, "weight": each.weight, "rank": each.source.rank, "sha256": each.sha256,
        "norm": whole**0.5, "survival": (left / whole) ** 0.5 if whole else 1.0,
    }  # fmt: skip


def warned(recipe: Recipe, said: Sequence[Said], facts: dict[str, Any]) -> list[Finding]:
    """Say what nobody would expect of the result."""
    found = []

    def say(code: str, level: Any, place: str, text: str) -> None:
        found.append(Finding(code=code, level=level, place=place, text=text))

    if gone := [s.target for s in said if not s.rank]:
        say("STK010", "note", "", f"{len(gone)} modules are left out, because nothing of them "
            f"remains: {first(gone, 3)}.")  # fmt: skip
    for each in facts["adapters"]:
        if each["survival"] < _FAINT:
            text = f"Only {each['survival']:.1%} of its update can be seen in the result (cosine). "
            say("STK011", "warning", each["ref"], text + "Give it more weight, or more rank.")
    if facts["energy"] < 0.9:
        rest = f"rank {facts['needed']} would keep all of it"
        if all(s.rank >= s.needed for s in said):
            rest = (
                f"--how {recipe.options.how} gives full rank, and this is the nearest of its rank"
            )
        say("STK012", "warning", "", f"{facts['energy']:.1%} of the energy is kept; {rest}.")
    twins: dict[str, str] = {}
    for named in recipe.named:
        if (before := twins.setdefault(named.sha256, named.ref)) != named.ref:
            say("STK013", "note", named.ref, f"It is a copy of {before}.")
    return found
