"""t · Σ pᵢΔWᵢ with t = K cos θ / (1 + (K − 1) cos θ), cos θ the mean over all pairs.

Model Stock, arXiv:2403.19522: the point that is nearest to the centre of all fine-tunings, between
their mean and the base. It was derived for acute angles; t is held at 0 for obtuse ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options, mixed, nothing
from adaptertools.blends._directions import directions
from adaptertools.update.factors import Factors

TITLE = "the mean, drawn to the base by how little the updates agree"
KEEPS = frozenset(PROPERTIES) - {"additive", "multiplies", "associative"}
SHARES = True


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Shrink the mean; nothing where the updates point away from each other."""
    found = directions(parts, weights)
    count = len(found.parts)
    if not count:
        return nothing(parts)
    pairs = max(count * (count - 1), 1)
    cosine = (found.cosines.sum() - count) / pairs if count > 1 else 1.0
    ratio = count * cosine / (1 + (count - 1) * cosine) if cosine > 0 else 0.0
    return mixed(found.parts, ratio * found.shares)
