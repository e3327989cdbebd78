"""W + W₀ ∘ M: a low-rank matrix that multiplies the weight entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Opened, scratch
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Modulated:
    """W + W₀ ∘ (scale · up · down), W₀ the weight before any update. HiRA, ICLR 2025; GLoRA."""

    by: LowRank
    additive = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the low-rank part."""
        return self.by.shape

    def open(self, base: Base) -> Opened:
        """Load both factors."""
        product, buffer = self.by.product(base.dtype), scratch()

        def step(tile: Array, original: Array | None, row: int) -> None:
            moved = product.fill(buffer(tile), row)
            moved *= tile if original is None else original
            tile += moved

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name rank and scale."""
        return {**self.by.describe(), "kind": "modulated"}
