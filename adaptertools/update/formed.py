"""W + scale · M, where M is worked out from few numbers, rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adaptertools.update import Base, Opened

if TYPE_CHECKING:
    from adaptertools.update import Array

# From a first row to the row after the last, as a new array.
Rows = Callable[[int, int], "Array"]


class Form(Protocol):
    """A matrix whose rows can be worked out by range, once what it is made of is loaded."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def form(self, dtype: str) -> Rows:
        """Load what it is made of, and give the function that makes its rows in this dtype."""
        ...


@dataclass(frozen=True, slots=True)
class Formed:
    """W + scale · M; in memory are what M is made of and the rows of one tile."""

    matrix: Form
    scale: float
    additive = True

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of M."""
        return self.matrix.shape

    def open(self, base: Base) -> Opened:
        """Load what M is made of; a step makes its rows and adds them."""
        import numpy as np

        rows, scale = self.matrix.form(base.dtype), np.dtype(base.dtype).type(self.scale)

        def step(tile: Array, original: Array | None, row: int) -> None:
            part = rows(row, row + len(tile))
            part *= scale
            tile += part

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name what M is, and the scale."""
        kind = getattr(self.matrix, "kind", type(self.matrix).__name__.lower())
        return {"kind": kind, "scale": self.scale}
