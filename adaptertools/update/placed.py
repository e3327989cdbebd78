"""Products of blocks as products of the whole weight, for what reasons about all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Matrix, Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.within import Within

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Placed:
    """M somewhere among zeros."""

    matrix: Matrix
    shape: tuple[int, int]
    start: tuple[int, int]

    def read(self, dtype: str) -> Array:
        """Load it in this dtype."""
        import numpy as np

        found, (row, column) = np.zeros(self.shape, dtype), self.start
        rows, columns = self.matrix.shape
        found[row : row + rows, column : column + columns] = self.matrix.read(dtype)
        return found


def products(updates: Iterable[Update], shape: tuple[int, int]) -> list[Update]:
    """Give the updates of a weight of this shape, products of blocks as products of all of it."""
    return [_whole(update, shape) for update in updates]


def _whole(update: Update, shape: tuple[int, int]) -> Update:
    if not isinstance(update, Within) or not isinstance(low := update.update, LowRank):
        return update
    up = Placed(low.up, (shape[0], low.rank), (update.rows[0], 0))
    down = Placed(low.down, (low.rank, shape[1]), (0, update.columns[0]))
    return LowRank(up, down, low.scale)
