"""Σ wᵢ (h/‖ΔWᵢ‖) ΔWᵢ, h the harmonic mean of the norms: every update comes in at one size.

Coefficients ∝ 1/‖ΔWᵢ‖ whose mean is 1. After NAN, arXiv:2505.16148; here for each module.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options, mixed, nothing
from adaptertools.update.factors import Factors

TITLE = "the sum, with each update brought to the same size first"
KEEPS = frozenset(PROPERTIES) - {"multiplies", "associative"}


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Balance and add."""
    norms = [part.norm() for part in parts]
    live = [(p, w, n) for p, w, n in zip(parts, weights, norms, strict=True) if n]
    if not live:
        return nothing(parts)
    mean = len(live) / sum(1 / n for *_, n in live)
    return mixed([p for p, *_ in live], [w * mean / n for _, w, n in live])
