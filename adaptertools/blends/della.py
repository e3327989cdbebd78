"""Drop entries by chance, small ones more often; rescale; elect signs; average. arXiv:2406.11617.

In every row of an update, the entry of rank j by size (0 the smallest of n) stays with probability
p = d − ε + 2ε · j/(n − 1) and is divided by it (MagPrune), as mergekit's `della_magprune` chooses
them; then TIES elects. mergekit's rescaling matches L1 norms instead of the expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.blends import Options
from adaptertools.blends._entrywise import Merge, blended, dice, elected
from adaptertools.errors import Unsupported
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

TITLE = "random entries, large ones more often, where they agree in sign"
KEEPS = frozenset({"multiplies", "homogeneous", "odd", "gauge", "zeros"})
_FACES = 2**16


def merger(parts: Sequence[Factors], options: Options) -> Merge:
    """Give what drops and rescales entries of rows and elects."""
    density, spread = options.density, options.epsilon
    if density < 1 and not 0 < density - spread <= density + spread < 1:
        raise Unsupported(
            f"--epsilon {spread:g} takes probabilities out of (0, 1) around --density "
            f"{density:g}. Choose a smaller one."
        )
    throws = dice(parts, options)

    def merge(rows: list[Array], row: int) -> Array:
        for entries, thrown in zip(rows, throws, strict=True):
            chances = odds(entries, density, spread)
            entries *= thrown.roll(row, len(entries)) < chances
            entries *= _FACES / chances
        return elected(rows)

    return merge if density < 1 else lambda rows, row: elected(rows)


def odds(entries: Array, density: float, spread: float) -> Array:
    """Give how many of 2¹⁶ throws keep each entry, by its rank in its row."""
    import numpy as np

    columns = entries.shape[1]
    steps = np.arange(columns) / max(columns - 1, 1) if columns > 1 else np.array([0.5])
    chances = np.rint((density - spread + 2 * spread * steps) * _FACES)
    found: Array = np.empty(entries.shape)
    order = np.argsort(np.abs(entries), axis=1)
    np.put_along_axis(found, order, np.broadcast_to(chances, entries.shape), axis=1)
    return found


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Drop, rescale, elect, average, and find factors."""
    return blended(merger, parts, weights, options)
