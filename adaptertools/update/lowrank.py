"""W + scale · up · down, in factored form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened, scratch

if TYPE_CHECKING:
    from adaptertools.update import Array

_SMALL = 1_000_000  # multiplications up to which OpenBLAS and MKL take their small kernels


@dataclass(frozen=True, slots=True)
class Product:
    """up · down, by rows."""

    up: Array
    down: Array

    def fill(self, out: Array, row: int) -> Array:
        """Fill an array with the product's rows from a row on."""
        import numpy as np

        # BLAS has kernels for small products that skip packing: twice as fast at low ranks.
        block = max(_SMALL // max(self.down.size, 1), 1)
        whole = len(out) - len(out) % block
        if whole:
            parts = self.up[row : row + whole].reshape(-1, block, len(self.down))
            np.matmul(parts, self.down, out=out[:whole].reshape(-1, block, out.shape[1]))
        if whole < len(out):
            np.matmul(self.up[row + whole : row + len(out)], self.down, out=out[whole:])
        return out

    def norm(self) -> float:
        """Give ‖up · down‖ without forming it: its square is tr((upᵀ up)(down downᵀ))."""
        up, down = self.up.astype("float64"), self.down.astype("float64")
        square: float = ((up.T @ up) * (down @ down.T)).sum()
        return float(max(square, 0.0) ** 0.5)


@dataclass(frozen=True, slots=True)
class LowRank:
    """W + scale · up · down; up is (rows, r), down is (r, columns). LoRA, arXiv:2106.09685."""

    up: Matrix
    down: Matrix
    scale: float
    additive = True

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.down.shape[0]

    def product(self, dtype: str) -> Product:
        """Load both factors."""
        import numpy as np

        up = self.up.read(dtype)
        up *= np.dtype(dtype).type(self.scale)
        return Product(up, self.down.read(dtype))

    def open(self, base: Base) -> Opened:
        """Load both factors; a step is one product and one sum."""
        product, buffer = self.product(base.dtype), scratch()

        def step(tile: Array, original: Array | None, row: int) -> None:
            tile += product.fill(buffer(tile), row)

        return Opened(step, product.norm())

    def describe(self) -> Mapping[str, object]:
        """Name rank and scale."""
        return {"kind": "low-rank", "rank": self.rank, "scale": self.scale}
