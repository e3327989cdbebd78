"""Iso-C: U · σ̄ · Vᵀ of the sum UΣVᵀ, every direction with the mean singular value.

arXiv:2502.04959; the mean is over the directions that the sum has (published code takes all
min(m, n) of a full SVD, most of them arbitrary for low-rank updates).
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options, nothing, weighted
from adaptertools.blends._span import live, scale
from adaptertools.update.factors import Factors, cat

TITLE = "the sum with its spectrum made flat"
KEEPS = frozenset(PROPERTIES) - {"additive", "associative", "halves", "identity"}


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Decompose the sum and level it."""
    folded = weighted(parts, weights)
    thin = live(cat(folded).svd(), scale(folded))
    if not thin.rank:
        return nothing(parts)
    root = float(thin.s.mean()) ** 0.5
    return Factors(thin.u * root, root * thin.vt)
