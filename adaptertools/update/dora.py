"""m · V / ‖V‖: a low-rank update whose length is learnt apart from its direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened, blend, scratch
from adaptertools.update.lowrank import LowRank, Product

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Dora:
    """m · V / ‖V‖ with V = W + scale · up · down. DoRA, arXiv:2402.09353; peft/tuners/lora/dora.py.

    The norm is taken over the input axis: along each stored row, or along each stored column
    where the base stores (in, out) (Conv1D) and for embeddings (per embedding dimension). It is the
    norm of base plus this update, also when other updates were applied before, as in PEFT.
    """

    low: LowRank
    magnitude: Matrix  # (1, n)
    by_column: bool
    weight: float = 1.0
    additive = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the low-rank part."""
        return self.low.shape

    def open(self, base: Base) -> Opened:
        """Load factors and magnitude; by column, take the norms in a pass over the base first."""
        import numpy as np

        product, buffer = self.low.product(base.dtype), scratch()
        magnitude = self.magnitude.read(base.dtype).reshape(-1)
        columns = self._column_factors(base, product, magnitude) if self.by_column else None

        def step(tile: Array, original: Array | None, row: int) -> None:
            moved = product.fill(buffer(tile), row)
            factor = columns
            if factor is None:
                factor = rows(moved, tile if original is None else original, row)
            moved += tile
            moved *= factor
            blend(tile, moved, self.weight)

        def rows(moved: Array, base_rows: Array, row: int) -> Array:
            whole = moved + base_rows
            norms = np.sqrt(np.einsum("ij,ij->i", whole, whole, dtype=np.float64))
            part = magnitude[row : row + len(moved)]
            return _ratio(part, norms).astype(base.dtype)[:, None]

        return Opened(step)

    def _column_factors(self, base: Base, product: Product, magnitude: Array) -> Array:
        import numpy as np

        squares, buffer = np.zeros(base.shape[1]), scratch()
        for row, tile in base.tiles():
            moved = product.fill(buffer(tile), row)
            moved += tile
            squares += np.einsum("ij,ij->j", moved, moved, dtype=np.float64)
        return _ratio(magnitude, np.sqrt(squares)).astype(base.dtype)

    def describe(self) -> Mapping[str, object]:
        """Name rank, scale and axis."""
        axis = "column" if self.by_column else "row"
        return {**self.low.describe(), "kind": "dora", "norm": axis, "weight": self.weight}


def _ratio(magnitude: Array, norms: Array) -> Array:
    import numpy as np

    # A zero vector has no direction: it stays zero, where a division would give NaN.
    return np.divide(magnitude, norms, out=np.zeros_like(norms), where=norms > 0)
