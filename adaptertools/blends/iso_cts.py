"""Iso-CTS: common directions of the sum, the best others of each task, orthogonal, spectrum flat.

U₀ has the k largest left singular vectors of ΣΔWᵢ, and task i adds the (R − k)/K largest of
ΔWᵢ − U₀U₀ᵀΔWᵢ. Polar factors of all U and all V, times the mean of all their σ. arXiv:2502.04959;
R is the rank of the sum, where the published code has min(m, n).
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options, nothing, weighted
from adaptertools.blends._span import live, polar, scale
from adaptertools.update.factors import Factors, Thin, cat

TITLE = "common and task-specific directions, with one size for all"
KEEPS = frozenset(PROPERTIES) - {"additive", "associative", "halves", "identity", "turns"}


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Gather both kinds of directions and level them."""
    import numpy as np

    size = scale(folded := weighted(parts, weights))
    tasks = [part for part in folded if part.norm()]
    thin = live(cat(folded).svd(), size)
    if not thin.rank:
        return nothing(parts)
    each = round((thin.rank - int(thin.rank * options.common)) / len(tasks))
    common = thin.truncated(max(thin.rank - each * len(tasks), 0))
    found = [common, *(live(_without(task, common), size).truncated(each) for task in tasks)]
    left = polar(np.concatenate([one.u for one in found], axis=1))
    right = polar(np.concatenate([one.vt for one in found]).T)
    mean = np.concatenate([one.s for one in found]).mean()
    return Factors(left * mean, right.T)


def _without(task: Factors, common: Thin) -> Thin:
    """Decompose what a task has beside the common outputs."""
    return Factors(task.up - common.u @ (common.u.T @ task.up), task.down).svd()
