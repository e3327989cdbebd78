"""W + up · f(left · W₀): what sees the weight through a few combinations of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adaptertools.update import Base, Opened
from adaptertools.update.lowrank import Product

if TYPE_CHECKING:
    from adaptertools.update import Array


class Core(Protocol):
    """The factors and the function between them; all in float64."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the layer."""
        ...

    def left(self) -> Array:
        """Give what the weight is seen through, (r, outputs)."""
        ...

    def up(self) -> Array:
        """Give what leads back, (outputs, k)."""
        ...

    def between(self, seen: Array) -> Array:
        """Give (k, inputs) of what is seen, (r, inputs)."""
        ...


@dataclass(frozen=True, slots=True)
class Through:
    """W + weight · up · f(left · W₀), W₀ the weight before any update. DEFT; PEANuT.

    Takes one pass over the weight first; a base that stores (inputs, outputs) is transposed.
    """

    core: Core
    transposed: bool
    weight: float = 1.0
    additive = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight as it is stored."""
        return self.core.shape[::-1] if self.transposed else self.core.shape

    def seen(self, base: Base) -> Array:
        """Look at the whole weight: left · W₀ in float64, (r, inputs)."""
        import numpy as np

        left = self.core.left()
        found = np.zeros((len(left), self.core.shape[1]))
        for row, tile in base.tiles():
            part = slice(row, row + len(tile))
            if self.transposed:
                found[:, part] = left @ tile.T.astype(np.float64)
            else:
                found += left[:, part] @ tile.astype(np.float64)
        return found

    def open(self, base: Base) -> Opened:
        """Pass over the weight; then a step is one product and one sum."""
        up, down = self.core.up() * self.weight, self.core.between(self.seen(base))
        if self.transposed:
            up, down = down.T, up.T
        product = Product(up.astype(base.dtype), down.astype(base.dtype))

        def step(tile: Array, original: Array | None, row: int) -> None:
            tile += product.fill(tile.copy(), row)

        return Opened(step, product.norm())

    def describe(self) -> Mapping[str, object]:
        """Name the weight."""
        return {"kind": "through", "weight": self.weight}
