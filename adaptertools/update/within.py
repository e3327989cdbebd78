"""An update of one block of a stored matrix; the rest stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Opened, Update, together

if TYPE_CHECKING:
    from adaptertools.update import Array

Span = tuple[int, int]  # from the first to the one after the last


@dataclass(frozen=True, slots=True)
class Within:
    """`update`, applied to W[rows, columns]; it sees nothing of the rest of W."""

    update: Update
    rows: Span
    columns: Span

    @property
    def additive(self) -> bool:
        """Whether it is W + ΔW with ΔW independent of W."""
        return self.update.additive

    @property
    def shape(self) -> None:
        """Whoever makes it sees to it that W has those rows and columns."""
        return

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of the block, which the update has to fit."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def together(self) -> int:
        """Rows that must be in one tile: the update's own, or the block where those do not meet."""
        own = together([self.update])
        return own if self.rows[0] % own == 0 else self.rows[1]

    def open(self, base: Base) -> Opened:
        """Open the update on the block; a step sends it those of a tile's rows that are its own."""
        inner = self.update.open(Block(base, self.rows, self.columns))
        (first, last), wide = self.rows, self.columns == (0, base.shape[1])

        def step(tile: Array, original: Array | None, row: int) -> None:
            own = slice(max(first - row, 0), max(min(last - row, len(tile)), 0))
            if own.start >= own.stop:
                return
            part, before = tile[own], original if original is None else original[own]
            if not wide:
                part = _contiguous(part, self.columns)
                before = None if before is None else _contiguous(before, self.columns)
            inner.step(part, before, row + own.start - first)
            if not wide:
                tile[own, slice(*self.columns)] = part

        return Opened(step, inner.norm, self.rows)

    def describe(self) -> Mapping[str, object]:
        """Name the block and what happens to it."""
        said = {"rows": list(self.rows), "columns": list(self.columns)}
        return {"kind": "within", **said, "update": dict(self.update.describe())}


class Block:
    """A block of a weight as the `Base` that the update of a block sees."""

    def __init__(self, base: Base, rows: Span, columns: Span) -> None:
        """Take the weight and where the block lies in it."""
        self.base, self.rows, self.columns, self.dtype = base, rows, columns, base.dtype
        self.shape = (rows[1] - rows[0], columns[1] - columns[0])

    def tiles(self) -> Iterator[tuple[int, Array]]:
        """Pass over its rows; those of the weight before them are read as well."""
        first, last = self.rows
        for row, tile in self.base.tiles():
            part = tile[max(first - row, 0) : max(last - row, 0)]
            if len(part):
                yield max(row - first, 0), _contiguous(part, self.columns)
            if row + len(tile) >= last:
                return

    def stored(self, values: Array) -> Array:
        """Round values to the stored dtype and back."""
        return self.base.stored(values)


def _contiguous(tile: Array, columns: Span) -> Array:
    import numpy as np

    return np.ascontiguousarray(tile[:, slice(*columns)])
