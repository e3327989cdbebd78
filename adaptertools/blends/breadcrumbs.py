"""Σ of each update's entries of middling size: without the γ largest, ⌊d · m · n⌋ of what is next.

Model Breadcrumbs, arXiv:2312.06795. As in mergekit's `magnitude_outliers`, fewer of the largest go
where d + γ > 1 (its slice `[bottom:-top]` is empty where top is 0; here nothing goes then).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.blends import Options
from adaptertools.blends._entrywise import Merge, blended, total
from adaptertools.blends._threshold import largest, trim
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

TITLE = "the sum of each update's entries, without the largest and the small"
KEEPS = frozenset(
    {"additive", "multiplies", "homogeneous", "odd", "cancels"}
    | {"permutation", "gauge", "zeros", "turns"}
)


def merger(parts: Sequence[Factors], options: Options) -> Merge:
    """Find both thresholds, and give what trims rows and adds them up."""
    import numpy as np

    count = parts[0].shape[0] * parts[0].shape[1]
    kept = int(options.density * count)
    top = min(int(options.gamma * count), count - kept)
    low = [largest([part], kept + top) for part in parts]
    high = [largest([part], top) for part in parts]

    def merge(rows: list[Array], row: int) -> Array:
        for entries, limit in zip(trim(rows, low), high, strict=True):
            entries *= np.abs(entries) < limit
        return total(rows)

    return merge


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Trim at both ends, add, and find factors."""
    return blended(merger, parts, weights, options)
