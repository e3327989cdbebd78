"""Trim each update to its largest entries, elect a sign for each place, take the mean of those
that have it. TIES, arXiv:2306.01708.

⌊density · m · n⌋ entries of each module's update are kept, as PEFT and mergekit have it (the paper
ranks over all modules at once). Weights are applied before the election, as in mergekit: a negated
adapter is an adapter, which it is not in PEFT. The result is a mean, not a sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import Options
from adaptertools.blends._entrywise import Merge, blended, elected
from adaptertools.blends._threshold import thresholds, trim
from adaptertools.update.factors import Factors

TITLE = "each update's largest entries, where they agree in sign"
# Not `cancels`: where A and −A are given by other factors, rounding elects the sign.
KEEPS = frozenset({"multiplies", "homogeneous", "odd", "permutation", "gauge", "zeros", "turns"})


def merger(parts: Sequence[Factors], options: Options) -> Merge:
    """Find the thresholds, and give what trims rows and elects."""
    limits = thresholds(parts, options.density)
    return lambda rows, row: elected(trim(rows, limits))


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Trim, elect, average, and find factors."""
    return blended(merger, parts, weights, options)
