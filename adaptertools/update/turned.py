"""W · T: the input of a layer turned before the layer sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adaptertools.update import Base, Matrix, Opened, blend

if TYPE_CHECKING:
    from adaptertools.update import Array


class Turn(Protocol):
    """A square matrix T that is never formed."""

    @property
    def size(self) -> int:
        """Its side."""
        ...

    def open(self, dtype: str) -> Callable[[Array], Array]:
        """Load it, and give the map of rows (n, size) to new rows · T."""
        ...

    def times(self, x: Array) -> Array:
        """Give T · x in float64, by other arithmetic than `open`, for the check."""
        ...


class Factored(Protocol):
    """What knows the blocks of a turn; one block alone stands for all."""

    def factors(self) -> list[tuple[Array, Array | None]]:
        """Give each factor's blocks in float64, (d, b, b), and its columns in order."""
        ...


@dataclass(frozen=True, slots=True)
class Turned:
    """diag(rows) · W · T, row by row; methods on an input are orthogonal T (OFT, BOFT, HRA)."""

    turn: Turn
    weight: float = 1.0
    rows: Matrix | None = None  # (rows, 1)
    additive = False

    @property
    def shape(self) -> None:
        """Whoever makes it sees to it that W has as many columns as T."""
        return

    def open(self, base: Base) -> Opened:
        """Load the turn."""
        turn = self.turn.open(base.dtype)
        rows = self.rows.read(base.dtype) if self.rows is not None else None

        def step(tile: Array, original: Array | None, row: int) -> None:
            moved = turn(tile)
            if rows is not None:
                moved *= rows[row : row + len(tile)]
            blend(tile, moved, self.weight)

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name the side."""
        return {"kind": "turned", "size": self.turn.size, "weight": self.weight}


@dataclass(frozen=True, slots=True)
class Blocks:
    """A product of block-diagonal matrices, each between a permutation and its inverse."""

    size: int
    parts: Factored

    def open(self, dtype: str) -> Callable[[Array], Array]:
        """Multiply rows by each factor: gather the columns, turn each block, scatter them."""
        import numpy as np

        factors = [
            (np.ascontiguousarray(blocks.astype(dtype)), order)
            for blocks, order in self.parts.factors()
        ]

        def turn(tile: Array) -> Array:
            for blocks, order in factors:
                count, side = self.size // blocks.shape[-1], blocks.shape[-1]
                moved = tile if order is None else tile[:, order]
                parts = moved.reshape(len(tile), count, side).transpose(1, 0, 2)
                moved = np.matmul(parts, blocks).transpose(1, 0, 2).reshape(tile.shape)
                if order is not None:
                    spread = np.empty_like(moved)
                    spread[:, order] = moved
                    moved = spread
                tile = moved
            return tile

        return turn

    def times(self, x: Array) -> Array:
        """Multiply from the left, the last factor first."""
        import numpy as np

        for blocks, order in reversed(self.parts.factors()):
            side = blocks.shape[-1]
            gathered = x if order is None else x[order]
            parts = gathered.reshape(-1, side, x.shape[1])
            blocks = np.broadcast_to(blocks, (len(parts), side, side))
            turned = np.einsum("dij,djk->dik", blocks, parts).reshape(x.shape)
            x = np.empty_like(turned)
            x[slice(None) if order is None else order] = turned
        return x
