"""Σ wᵢΔWᵢ with every factor as it was: up = [B₁ … B_K], down = [w₁A₁; …; w_KA_K].

The same update as `sum`, at rank Σ rᵢ: nothing is decomposed, so that a part can be found again in
the result. The weight goes to `down`, where PEFT's `cat` has it (peft/tuners/lora/model.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options
from adaptertools.update.factors import Factors
from adaptertools.update.factors import cat as concatenated

TITLE = "the exact sum, with the factors side by side as they are"
KEEPS = frozenset(PROPERTIES)


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Concatenate the factors, zero weights included."""
    return concatenated([Factors(p.up, p.down * w) for p, w in zip(parts, weights, strict=True)])
