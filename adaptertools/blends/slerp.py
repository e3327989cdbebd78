"""sin((1−t)θ)/sin θ · ΔW₁ + sin(tθ)/sin θ · ΔW₂, with cos θ = ⟨ΔW₁, ΔW₂⟩/(‖ΔW₁‖‖ΔW₂‖).

t is the second weight's share. Shoemake 1985; mergekit's `slerp`, which takes whole models where
this takes updates, and is straight already at θ < 1.8°.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options, mixed, nothing
from adaptertools.blends._directions import directions
from adaptertools.errors import Unsupported
from adaptertools.update.factors import Factors

TITLE = "between two updates, along the arc"
KEEPS = frozenset(PROPERTIES) - {"additive", "multiplies", "associative"}
SHARES = True
_STRAIGHT = 1e-6  # sin θ below which the arc is a line: parallel, or opposite with no one arc


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Go from the first update to the second. Raises Unsupported for more than two."""
    import numpy as np

    found = directions(parts, weights)
    if len(found.parts) < 2:
        return mixed(found.parts, [1.0]) if found.parts else nothing(parts)
    if len(found.parts) > 2:
        raise Unsupported(
            f"slerp goes between two adapters, and {len(found.parts)} change this module. "
            "Use --how karcher for more."
        )
    angle = np.arccos(found.cosines[0, 1])
    if np.sin(angle) < _STRAIGHT:
        return mixed(found.parts, found.shares)
    return mixed(found.parts, np.sin(found.shares * angle) / np.sin(angle))
