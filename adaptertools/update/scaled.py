"""W with its rows, or its columns, multiplied by learnt numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened, blend, scratch

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Scaled:
    """W ∘ T, with T a table of as many rows or columns as W, or of one.

    A table of (rows, 1) multiplies rows, of (1, columns) columns; one of (g, columns) gives each
    g-th of the rows factors of its own, as a convolution's groups have. (IA)³, arXiv:2205.05638.
    """

    table: Matrix
    weight: float = 1.0
    additive = False

    @property
    def shape(self) -> None:
        """Whoever makes it sees to it that the table fits."""
        return

    def open(self, base: Base) -> Opened:
        """Load the table."""
        import numpy as np

        table, buffer = self.table.read(base.dtype), scratch()

        def step(tile: Array, original: Array | None, row: int) -> None:
            part = table
            if len(table) > 1:
                part = table[np.arange(row, row + len(tile)) * len(table) // base.shape[0]]
            moved = np.multiply(tile, part, out=buffer(tile))
            blend(tile, moved, self.weight)

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name the axis."""
        axis = "rows" if self.table.shape[1] == 1 else "columns"
        return {"kind": "scaled", "axis": axis, "weight": self.weight}
