"""Σ wᵢΔWᵢ, exactly. Task arithmetic, arXiv:2212.04089; all adapters active at once."""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options, mixed
from adaptertools.update.factors import Factors

TITLE = "the exact sum of the updates"
KEEPS = frozenset(PROPERTIES)


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Concatenate the factors; whoever wants the smallest rank decomposes the result."""
    return mixed(parts, weights)
