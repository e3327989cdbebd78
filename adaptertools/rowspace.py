"""The directions of the input that an adapter reads: an orthonormal basis of its row space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.update import Base, Opened, Update, change
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

LARGEST = 128  # directions at most, the strongest
SKETCHED = 16  # directions of an update that does not say what it reads


def row_space(
    updates: Sequence[Update], opened: Sequence[Opened] = (), base: Base | None = None
) -> Array:
    """Give V, float32 (columns, rank), with orthonormal columns.

    For products it spans the rows of their `down` factors. For any other update it approximates
    the strongest right singular vectors of the change itself, by one step of subspace iteration
    from a fixed start (Halko, Martinsson, Tropp, arXiv:0909.4061).
    """
    import numpy as np

    products = [update for update in updates if isinstance(update, LowRank)]
    if len(products) < len(updates):
        assert base is not None
        return _sketched(opened, base)
    down = np.concatenate([product.down.read("float64") for product in products])
    if len(down) <= min(LARGEST, down.shape[1]):
        return np.linalg.qr(down.T)[0].astype(np.float32)
    up = np.concatenate([p.up.read("float64") * p.scale for p in products], axis=1)
    core = np.linalg.qr(up, mode="r") @ down
    vectors = np.linalg.svd(core, full_matrices=False)[2][:LARGEST]
    return np.ascontiguousarray(vectors.T, np.float32)


def _sketched(opened: Sequence[Opened], base: Base) -> Array:
    import numpy as np

    rows, columns = base.shape
    rank = min(SKETCHED, rows, columns)
    start = np.random.default_rng(0).standard_normal((columns, rank)).astype(base.dtype)
    sketch = np.zeros((columns, rank))
    for row, before in base.tiles():
        moved = before.copy()
        change(opened, moved, before, row)
        moved -= before
        sketch += moved.T @ (moved @ start)
    return np.linalg.qr(sketch)[0].astype(np.float32)
