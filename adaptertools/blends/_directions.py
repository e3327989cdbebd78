"""Updates as directions: signs turned, weights as shares, angles from the K × K Gram matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array


class Directions(NamedTuple):
    """The updates that have a direction and a share; possibly none."""

    parts: list[Factors]
    shares: Array  # (k,), positive, sum 1
    norms: Array  # (k,)
    cosines: Array  # (k, k)


def directions(parts: Sequence[Factors], weights: Sequence[float]) -> Directions:
    """Take updates by their directions; weight 0 and norm 0 have none."""
    import numpy as np

    sized = [(p, w, p.norm()) for p, w in zip(parts, weights, strict=True) if w]
    # Where a norm is rounding beside its own parts, its direction is noise.
    live = [(p, w, n) for p, w, n in sized if n > 1e-15 * p.bound()]
    turned = [p if w > 0 else p.scaled(-1.0) for p, w, _ in live]
    norms, sizes = np.array([n for *_, n in live]), np.array([abs(w) for _, w, _ in live])
    gram = np.array([[a.dot(b) for b in turned] for a in turned]).reshape(len(live), len(live))
    cosines = np.clip(gram / np.outer(norms, norms), -1, 1)
    return Directions(turned, sizes / sizes.sum(), norms, cosines)
