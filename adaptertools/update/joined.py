"""Products that are rows of one weight, as one product of all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

Part = tuple[int, LowRank]  # the row that it starts at, and what is added there


@dataclass(frozen=True, slots=True)
class _Up:
    """Each product's up in its own rows and columns, its scale in it: [s₁B₁ 0; 0 s₂B₂]."""

    parts: Sequence[Part]
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, sum(low.rank for _, low in self.parts)

    def read(self, dtype: str) -> Array:
        """Load them in this dtype."""
        import numpy as np

        found, column = np.zeros(self.shape, dtype), 0
        for row, low in self.parts:
            rows, columns = low.up.shape
            block = low.up.read(dtype) * np.dtype(dtype).type(low.scale)
            found[row : row + rows, column : column + columns] = block
            column += columns
        return found


@dataclass(frozen=True, slots=True)
class _Down:
    """Each product's down, one below the other."""

    parts: Sequence[Part]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return sum(low.rank for _, low in self.parts), self.parts[0][1].shape[1]

    def read(self, dtype: str) -> Array:
        """Load them in this dtype."""
        import numpy as np

        return np.concatenate([low.down.read(dtype) for _, low in self.parts])


def joined(parts: Sequence[Part], height: int) -> LowRank:
    """Give the product of a weight of so many rows; its other rows stay as they are.

    `parts`, at least one, are of the weight's width, and lie side by side in no row.
    """
    return LowRank(_Up(parts, height), _Down(parts), 1.0)
