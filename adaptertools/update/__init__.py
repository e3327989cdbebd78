"""What an adapter does to a weight, as algebra on row tiles.

An update never sees a file or a whole model. A weight is a matrix (rows, columns) as it is
*stored*, further axes flattened into the columns; it comes by in tiles of rows, in the dtype of
the arithmetic (float32 for 16-bit storage, float64 for 32- and 64-bit), and is changed in place.
Several updates of one weight are applied in order, all in that dtype, and rounded once at the end.
What `--scale` asks for multiplies the change: w' = w + scale · (update(w) − w).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import lcm
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# Change one tile in place: (tile, the base's rows or None where the tile still is them, row).
Step = Callable[["Array", "Array | None", int], None]


class Opened(NamedTuple):
    """An update with its factors loaded."""

    step: Step
    norm: float | None = None  # ‖update‖, where it is known without looking at the weight
    rows: tuple[int, int] | None = None  # the only ones that it changes; None for all

    def reaches(self, row: int, count: int) -> bool:
        """Whether so many rows from this one hold any that it changes."""
        return self.rows is None or (self.rows[0] < row + count and row < self.rows[1])


class Matrix(Protocol):
    """A factor that is read when it is needed."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def read(self, dtype: str) -> Array:
        """Load it in this dtype."""
        ...


class RowMatrix(Protocol):
    """A matrix whose rows can be read by range, without the rest of it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def rows(self, start: int, stop: int, dtype: str) -> Array:
        """Load these rows in this dtype."""
        ...


class Base(Protocol):
    """The weight before any update, as tiles in the dtype of the arithmetic."""

    dtype: str
    shape: tuple[int, int]

    def tiles(self) -> Iterable[tuple[int, Array]]:
        """Pass over all rows: the first row's number, and a tile that is valid until the next."""
        ...

    def stored(self, values: Array) -> Array:
        """Round values to the stored dtype and back."""
        ...


class Update(Protocol):
    """What every update can do."""

    @property
    def shape(self) -> tuple[int, int] | None:
        """The shape of weight it fits, None for any."""
        ...

    @property
    def additive(self) -> bool:
        """Whether it is W + ΔW with ΔW independent of W."""
        ...

    def open(self, base: Base) -> Opened:
        """Load the factors, look at the base if need be, and give the step for its tiles."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Say what it does, for plans and receipts."""
        ...


def together(updates: Iterable[Update]) -> int:
    """Give the number of rows that must be in one tile, or a multiple of it (Paired says so)."""
    return lcm(*(getattr(update, "together", 1) for update in updates))


def change(opened: Iterable[Opened], tile: Array, original: Array | None, row: int) -> None:
    """Apply updates to a tile in place, in order; `original` is a copy of it, if more than one."""
    first = True
    for each in opened:
        if each.reaches(row, len(tile)):
            each.step(tile, None if first else original, row)
            first = False


def scratch() -> Callable[[Array], Array]:
    """Give an allocator that hands out the same buffer for tiles of one shape."""
    kept: dict[tuple[int, ...], Array] = {}

    def like(tile: Array) -> Array:
        import numpy as np

        if tile.shape not in kept:
            kept.clear()
            kept[tile.shape] = np.empty_like(tile)
        return kept[tile.shape]

    return like


def blend(tile: Array, moved: Array, weight: float) -> None:
    """Move the tile by `weight` of the way to `moved`; all the way without a rounding."""
    if weight == 1.0:
        tile[:] = moved
    else:
        moved -= tile
        moved *= weight
        tile += moved
