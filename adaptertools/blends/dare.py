"""Σ mᵢ ∘ (wᵢΔWᵢ) / d, each entry of mᵢ 1 with probability d and else 0. DARE, arXiv:2311.03099.

The mean over the dice is the plain sum; what one throw adds to it is noise of energy
(1 − d)/d · ‖ΔWᵢ‖², most of which the return to factors takes away again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.blends import Options
from adaptertools.blends._entrywise import Merge, blended, dice, total
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

TITLE = "the sum of random entries of each update, enlarged"
KEEPS = frozenset({"additive", "multiplies", "homogeneous", "odd", "gauge", "zeros"})
_FACES = 2**16  # of the dice


def merger(parts: Sequence[Factors], options: Options) -> Merge:
    """Give what drops and rescales entries of rows and adds them up."""
    throws = dice(parts, options)
    chance = max(round(options.density * _FACES), 1)

    def merge(rows: list[Array], row: int) -> Array:
        for entries, thrown in zip(rows, throws, strict=True):
            entries *= thrown.roll(row, len(entries)) < chance
        summed = total(rows)
        summed *= _FACES / chance
        return summed

    return merge


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Drop, rescale, add, and find factors."""
    return blended(merger, parts, weights, options)
