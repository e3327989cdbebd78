"""Scales for fresh codes: the largest magnitude of each block, or the one that fits it best.

The largest magnitude keeps every weight within the grid. A smaller scale cuts the largest weight
off and has finer steps for the others; which of both leaves less error is tried, block by block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from adaptertools.jobs import Edit
from adaptertools.packing import Writer
from adaptertools.tensorfile import dtype_of

if TYPE_CHECKING:
    from adaptertools.update import Array

NEAREST = ("nearest", "search")  # roundings without dice
SHARES = tuple(share / 40 for share in range(30, 46))  # of the largest magnitude: 0.75 to 1.125


def fitted(codec: Writer, tile: Array, rounding: str) -> Array:
    """Give the scales of a tile's blocks, float32 and flat; searched for with `search`."""
    fit = codec.fit(tile)
    return _searched(codec, tile, fit) if rounding == "search" else fit


def _searched(codec: Writer, tile: Array, fit: Array) -> Array:
    """Give the scale of each block with the least Σ(Q(w) − w)², of SHARES; the largest on a tie."""
    import numpy as np

    rows, columns = tile.shape
    starts = np.arange(0, tile.size, getattr(codec, "block_size", columns))
    best, least = fit, np.full(fit.shape, np.inf)
    for share in (1.0, *SHARES):
        scales = fit * np.float32(share)
        error = codec.decode(codec.nearest(tile, scales), codec.spread(scales, 0, rows, columns))
        error -= tile
        error *= error
        sums = np.add.reduceat(error.reshape(-1), starts, dtype=np.float64)
        best = np.where(sums < least, scales, best)
        least = np.minimum(sums, least)
    return best


def wanted_scales(edit: Edit, exact: Array) -> tuple[Array, float]:
    """Give the scale of every element, had scales no packing of their own, and how far off it is.

    `exact` is the whole weight in float64, as the base has it; the second is a share of the largest
    scale: of packed scales, or where two fit a block about as well and a last bit decides.
    """
    import numpy as np

    assert edit.repack is not None
    codec, how = cast(Writer, edit.repack.codec), edit.repack.rounding
    values = np.ascontiguousarray(exact.T if edit.turned else exact)
    rounded = values.astype(dtype_of(edit.dtype)).astype(np.float32)
    spread = codec.spread(fitted(codec, rounded, how), 0, *rounded.shape)
    wide = np.broadcast_to(spread, rounded.shape).astype(np.float64)
    return wide.T if edit.turned else wide, 0.4 if how == "search" else 0.02
