"""W + scale · S, where S has few entries that are not zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from adaptertools.update import Base, Opened

if TYPE_CHECKING:
    from adaptertools.update import Array


class Entries(NamedTuple):
    """The entries of a sparse matrix; those at one place add up."""

    rows: Array
    columns: Array
    values: Array


class Sparse(Protocol):
    """A sparse matrix that is read when it is needed."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def entries(self, base: Base) -> Entries:
        """Load its entries, their values in the dtype of the base's arithmetic."""
        ...


@dataclass(frozen=True, slots=True)
class Scatter:
    """W + scale · S; in memory are the entries of S."""

    matrix: Sparse
    scale: float
    additive = True

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of S."""
        return self.matrix.shape

    def open(self, base: Base) -> Opened:
        """Load the entries and sort them by row; a step adds those of its rows."""
        import numpy as np

        rows, columns, values = self.matrix.entries(base)
        order = np.argsort(rows, kind="stable")
        rows, columns = rows[order], columns[order]
        values = values[order] * np.dtype(base.dtype).type(self.scale)

        def step(tile: Array, original: Array | None, row: int) -> None:
            first, last = np.searchsorted(rows, (row, row + len(tile)))
            here = slice(int(first), int(last))
            np.add.at(tile, (rows[here] - row, columns[here]), values[here])

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name the scale."""
        return {"kind": "sparse", "scale": self.scale}
