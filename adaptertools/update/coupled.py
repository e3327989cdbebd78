"""b + scale · W₀ · c: a bias that takes a combination of the weight's columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Opened, RowMatrix
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Coupled:
    """b + W₀ · (scale · up · down), down having one column. GLoRA, arXiv:2306.07967."""

    weight: RowMatrix  # of the same layer, before any update
    by: LowRank
    additive = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the bias."""
        return self.weight.shape[0], 1

    def open(self, base: Base) -> Opened:
        """Load the factors; the weight's rows are read as they are needed."""
        product = self.by.product(base.dtype)
        vector = product.up @ product.down

        def step(tile: Array, original: Array | None, row: int) -> None:
            few = max((1 << 20) // max(len(vector), 1), 1)
            for at in range(0, len(tile), few):
                stop = min(at + few, len(tile))
                tile[at:stop] += self.weight.rows(row + at, row + stop, base.dtype) @ vector

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name rank and scale."""
        return {**self.by.describe(), "kind": "coupled"}
