"""The directions that a change of a weight reads and writes, and how large it is where.

D = U·S·Vᵀ, rows of D being outputs and columns inputs. For an adapter up·down of low rank nothing
of the size of the weight is made; any other change is sketched, tile by tile, in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Opened, Update, change
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

LARGEST = 128  # directions that are read, at most: the strongest
STEERED = 32  # directions that are written, at most: the strongest
SKETCHED = 16  # directions of an update that does not say what it reads


@dataclass(frozen=True, slots=True)
class Spaces:
    """What a change D of a weight (rows, columns) reads and writes; all float32."""

    reads: Array  # V: (columns, rank), orthonormal columns
    writes: Array  # U: (rows, rank), orthonormal columns, the strongest first
    rows: Array  # root mean square of D in every row: (rows,)
    columns: Array  # and in every column: (columns,)

    @property
    def size(self) -> float:
        """Root mean square of all of D."""
        import numpy as np

        return float(np.linalg.norm(self.rows.astype(np.float64)) / max(len(self.rows), 1) ** 0.5)


def spaces(
    updates: Sequence[Update], opened: Sequence[Opened] = (), base: Base | None = None
) -> Spaces:
    """Find what all the updates together read and write.

    For products V spans the rows of their `down` factors. For any other update V and U
    approximate the strongest singular vectors of the change itself, by one step of subspace
    iteration and by a range finder from a fixed start (Halko, Martinsson, Tropp, arXiv:0909.4061).
    """
    import numpy as np

    products = [update for update in updates if isinstance(update, LowRank)]
    if len(products) < len(updates):
        assert base is not None
        return _sketched(opened, base)
    down = np.concatenate([product.down.read("float64") for product in products])
    up = np.concatenate([p.up.read("float64") * p.scale for p in products], axis=1)
    (left, high), (right, wide) = np.linalg.qr(up), np.linalg.qr(down.T)
    core = np.nan_to_num(high @ wide.T, posinf=0.0, neginf=0.0)  # the tiles say what is not finite
    turned, _, back = np.linalg.svd(core, full_matrices=False)
    few = len(down) <= min(LARGEST, down.shape[1])
    reads = right if few else right @ back[:LARGEST].T
    rows = np.linalg.norm(up @ wide.T, axis=1) / max(len(right), 1) ** 0.5
    columns = np.linalg.norm(down.T @ high.T, axis=1) / max(len(left), 1) ** 0.5
    return _single(reads, left @ turned[:, :STEERED], rows, columns)


def _sketched(opened: Sequence[Opened], base: Base) -> Spaces:
    import numpy as np

    rows, columns = base.shape
    rank = min(SKETCHED, rows, columns)
    start = np.random.default_rng(0).standard_normal((columns, rank)).astype(base.dtype)
    read, written = np.zeros((columns, rank)), np.zeros((rows, rank))
    high, wide = np.zeros(rows), np.zeros(columns)
    for row, before in base.tiles():
        moved = before.copy()
        change(opened, moved, before, row)
        moved -= before
        part = slice(row, row + len(moved))
        written[part] = seen = moved @ start
        read += moved.T @ seen
        square = np.square(moved)
        high[part], wide = square.sum(axis=1), wide + square.sum(axis=0)
    found = np.linalg.qr(written)[0]
    return _single(np.linalg.qr(read)[0], found, (high / columns) ** 0.5, (wide / rows) ** 0.5)


def _single(*arrays: Array) -> Spaces:
    import numpy as np

    return Spaces(*(np.nan_to_num(array.astype(np.float32, "C")) for array in arrays))
