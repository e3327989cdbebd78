"""Select places where the updates differ most, weigh updates by energy, erase minority signs.

S: of the places whose variance over the updates is not 0, the share `density` with the largest.
C: cᵢ ∝ mean square of what is left of update i. E: the entries whose sign is not that of the sum
go, and the rest is averaged with the weights cᵢ. arXiv:2408.07990; mergekit's `sce`, which gives
all the same weight where Σcᵢ < 10⁻⁶, as it is for most LoRAs; here only where it is 0.
Equal updates differ nowhere: nothing is selected, unless density is 1 or there is only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.blends import Options
from adaptertools.blends._entrywise import Merge, blended, tiles
from adaptertools.blends._threshold import largest
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

TITLE = "the entries that differ most, by energy, where they agree in sign"
KEEPS = frozenset({"multiplies", "homogeneous", "odd", "identity", "permutation", "gauge", "turns"})
_LEAST = 1e-6  # weight below which an average is not enlarged; mergekit's


def merger(parts: Sequence[Factors], options: Options) -> Merge:
    """Find threshold and weights, and give what selects, erases and averages rows."""
    import numpy as np

    limit = 0.0
    if options.density < 1 and len(parts) > 1:
        places = sum(int(np.count_nonzero(_variance(rows))) for _, rows in tiles(parts))
        limit = largest(parts, int(places * options.density), _variance)
    energy = np.zeros(len(parts))
    for _, rows in tiles(parts):
        energy += [float(np.vdot(entries, entries)) for entries in _selected(rows, limit)]
    shares = energy / energy.sum() if energy.any() else np.full(len(parts), 1 / len(parts))
    return lambda rows, row: _averaged(_selected(rows, limit), shares)


def _variance(rows: list[Array]) -> Array:
    # Σ (x − mean)² as it is written: differences of squares would lose the digits of a small one.
    mean = sum(rows[1:], start=rows[0]) / len(rows)
    found: Array = sum(((entries - mean) ** 2 for entries in rows), start=mean * 0) / len(rows)
    return found


def _selected(rows: list[Array], limit: float) -> list[Array]:
    if limit > 0:
        chosen = _variance(rows) >= limit
        for entries in rows:
            entries *= chosen
    return rows


def _averaged(rows: list[Array], shares: Array) -> Array:
    import numpy as np

    sign = np.sign(sum(rows))
    found, weight = np.zeros_like(sign), np.zeros_like(sign)
    for entries, share in zip(rows, shares, strict=True):
        agree = (entries * sign > 0) * share
        entries *= agree
        found += entries
        weight += agree
    found /= np.maximum(weight, _LEAST, out=weight)
    return found


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Select, weigh, erase, average, and find factors."""
    return blended(merger, parts, weights, options)
