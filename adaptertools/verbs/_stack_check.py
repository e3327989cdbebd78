"""Read back what was written, and hold it against the adapters that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptertools.errors import Unreadable, first
from adaptertools.update.factors import cat
from adaptertools.verbs._sources import source
from adaptertools.verbs._stack_modules import Module, Recipe
from adaptertools.verbs._stack_stored import Said
from adaptertools.verbs.open import open_adapter

_SLACK = 1e-7  # the square root of a float64 rounding, which is what norms of differences have


def read_back(recipe: Recipe, folder: Path, said: Sequence[Said]) -> dict[str, Any]:
    """Check every module of the written adapter: ‖stored − blend‖ is what was foreseen.

    Raises Unreadable where one is not.
    """
    written = source(open_adapter(folder), recipe.base if recipe.experts() else None, "peft")
    kept = [each for each in said if each.rank]
    wrong, worst = [], 0.0
    for each in kept:
        blended = Module.load(recipe, each.target).blended
        entry = written.entries.get(each.target)
        if entry is None or entry.rank != each.rank:
            wrong.append(each.target)
            continue
        off = cat([written.load(entry), blended.scaled(-1.0)]).norm()
        size = blended.norm() or 1.0
        foreseen = max(1 - each.energy / max(each.found, 1e-30), 0.0) ** 0.5 + each.rounding
        worst = max(worst, off / size)
        if not off / size <= foreseen * 1.01 + _SLACK:
            wrong.append(each.target)
    names = {each.target for each in kept}
    for target, entry in written.entries.items():
        zeros = target in written.experts and not written.load(entry).up.any()
        if target not in names and not zeros:
            wrong.append(target)
    if wrong or not names <= written.entries.keys():
        raise Unreadable(
            f"What was written is not what was computed, at {first(wrong)}. It was removed. "
            "Check the disk and the memory of this machine, and report it."
        )
    residual = max((each.residual or 0.0 for each in kept), default=0.0)
    return {"modules": len(kept), "residual": residual, "difference": worst}
