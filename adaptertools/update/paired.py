"""R · W with R rotating pairs of outputs within groups of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened, blend

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Paired:
    """W'ᵢ = aᵢ·Wᵢ + bᵢ·Wⱼ, j being i's partner in the other half of its group.

    `pairs` holds a and b, (rows, 2); bᵢ carries its sign. Of each group all rows must be in one
    tile (`together`). RoAd, arXiv:2409.00119.
    """

    pairs: Matrix
    together: int  # rows of a group
    weight: float = 1.0
    additive = False

    @property
    def shape(self) -> None:
        """Whoever makes it sees to it that the rows fit."""
        return

    def open(self, base: Base) -> Opened:
        """Load the numbers."""
        pairs, half = self.pairs.read(base.dtype), self.together // 2

        def step(tile: Array, original: Array | None, row: int) -> None:
            part = pairs[row : row + len(tile)]
            groups = tile.reshape(-1, 2, half, tile.shape[1])
            moved = groups[:, ::-1].copy().reshape(tile.shape)  # every row's partner
            moved *= part[:, 1:]
            moved += tile * part[:, :1]
            blend(tile, moved, self.weight)

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name the size of a group."""
        return {"kind": "paired", "group": self.together, "weight": self.weight}
