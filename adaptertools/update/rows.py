"""Rows, or a whole tensor, replaced by trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened, RowMatrix, blend

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows replaced by new ones: W[indices[i]] = values[i]. peft/tuners/trainable_tokens."""

    indices: tuple[int, ...]
    values: Matrix
    weight: float = 1.0
    additive = False

    @property
    def shape(self) -> None:
        """It fits any weight that has those rows."""
        return

    def open(self, base: Base) -> Opened:
        """Load the rows."""
        values = self.values.read(base.dtype)

        def step(tile: Array, original: Array | None, row: int) -> None:
            for index, value in zip(self.indices, values, strict=True):
                if row <= index < row + len(tile):
                    blend(tile[index - row], value.copy(), self.weight)

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name how many rows."""
        return {"kind": "rows", "rows": len(self.indices), "weight": self.weight}


@dataclass(frozen=True, slots=True)
class Toward:
    """W + weight · (R − W): part of the way to a whole saved tensor R."""

    values: RowMatrix
    weight: float
    additive = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the saved tensor."""
        return self.values.shape

    def open(self, base: Base) -> Opened:
        """Read the saved tensor's rows as the tiles come by."""

        def step(tile: Array, original: Array | None, row: int) -> None:
            blend(tile, self.values.rows(row, row + len(tile), base.dtype), self.weight)

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name the weight."""
        return {"kind": "toward", "weight": self.weight}
