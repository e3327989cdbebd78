"""Σ of each update's largest entries: top(wᵢΔWᵢ), ⌊density · m · n⌋ of them.

PEFT's `magnitude_prune` (peft/utils/merge_utils.py), on the update where PEFT prunes the factors.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import Options
from adaptertools.blends._entrywise import Merge, blended, total
from adaptertools.blends._threshold import thresholds, trim
from adaptertools.update.factors import Factors

TITLE = "the sum of each update's largest entries"
KEEPS = frozenset(
    {"additive", "multiplies", "homogeneous", "odd", "cancels"}
    | {"permutation", "gauge", "zeros", "turns"}
)


def merger(parts: Sequence[Factors], options: Options) -> Merge:
    """Find the thresholds, and give what trims rows and adds them up."""
    limits = thresholds(parts, options.density)
    return lambda rows, row: total(trim(rows, limits))


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Trim, add, and find factors."""
    return blended(merger, parts, weights, options)
