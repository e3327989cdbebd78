"""The mean of the directions on the sphere, times the mean of the norms.

u ← exp_u(Σ pᵢ log_u(uᵢ)) until it stands still, uᵢ = ΔWᵢ/‖ΔWᵢ‖ (Karcher 1977; mergekit's
`karcher`). Every iterate is Σ cᵢuᵢ, so that K numbers and the Gram matrix are all there is to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.blends import PROPERTIES, Options, mixed, nothing
from adaptertools.blends._directions import directions
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

TITLE = "the mean direction on the sphere, at the mean size"
KEEPS = frozenset(PROPERTIES) - {"additive", "multiplies", "associative"}
SHARES = True
_STEPS, _STILL = 1000, 1e-15


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Find the mean direction; nothing where the directions cancel."""
    found = directions(parts, weights)
    if not found.parts:
        return nothing(parts)
    mean = _mean(found.shares, found.cosines)
    size = found.shares @ found.norms
    return mixed(found.parts, mean * size / found.norms)


def _mean(shares: Array, cosines: Array) -> Array:
    """Give the coefficients (k,) of the unit vectors in their mean."""
    import numpy as np

    mean = shares.copy()
    for _ in range(_STEPS):
        square = mean @ cosines @ mean
        if square < 1e-14:  # rounding of a square, so 1e-7 of a length
            return np.zeros_like(mean)  # directions that cancel have no mean
        mean = mean / np.sqrt(square)
        angles = np.arccos(np.clip(cosines @ mean, -1, 1))
        # log_u(uᵢ) = θᵢ/sin θᵢ (uᵢ − cos θᵢ u); θ/sin θ is 1 at 0, and np.sinc(θ/π) is sin θ/θ
        pulls = shares / np.maximum(np.sinc(angles / np.pi), 1e-9)
        step = pulls - (pulls @ np.cos(angles)) * mean
        length = np.sqrt(max(step @ cosines @ step, 0.0))
        if length < _STILL:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * step
    found: Array = mean
    return found
