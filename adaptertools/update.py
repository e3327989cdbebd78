"""What an adapter does to a weight, as algebra on row tiles.

An update never sees a file or a whole model. A weight is a matrix (rows, columns) as it is
*stored*, further axes flattened into the columns; it comes by in tiles of rows, in the dtype of
the arithmetic (float32 for 16-bit storage, float64 for 32- and 64-bit), and is changed in place.
Several updates of one weight are applied in order, all in that dtype, and rounded once at the end.
What `--scale` asks for multiplies the change: w' = w + scale · (update(w) − w).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_SMALL = 1_000_000  # multiplications up to which OpenBLAS and MKL take their small kernels

# Change one tile in place: (tile, the base's rows or None where the tile still is them, row).
Step = Callable[["Array", "Array | None", int], None]


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
        """Pass over all rows, giving the first row's number and a tile that is valid until the next."""
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

    def open(self, base: Base) -> Step:
        """Load the factors, look at the base if need be, and give the step for its tiles."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Say what it does, for plans and receipts."""
        ...


def _scratch() -> Callable[[Array], Array]:
    """Give an allocator that hands out the same buffer for tiles of one shape."""
    kept: dict[tuple[int, ...], Array] = {}

    def like(tile: Array) -> Array:
        import numpy as np

        if tile.shape not in kept:
            kept.clear()
            kept[tile.shape] = np.empty_like(tile)
        return kept[tile.shape]

    return like


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

    def product(self, dtype: str) -> Callable[[Array, int], Array]:
        """Give a function that fills an array with the update's rows from a row on."""
        import numpy as np

        up, down = self.up.read(dtype) * np.dtype(dtype).type(self.scale), self.down.read(dtype)
        # BLAS has kernels for small products that skip packing: twice as fast at low ranks.
        block = max(_SMALL // max(down.size, 1), 1)

        def fill(out: Array, row: int) -> Array:
            whole = len(out) - len(out) % block
            if whole:
                parts = up[row : row + whole].reshape(-1, block, self.rank)
                np.matmul(parts, down, out=out[:whole].reshape(-1, block, down.shape[1]))
            if whole < len(out):
                np.matmul(up[row + whole : row + len(out)], down, out=out[whole:])
            return out

        return fill

    def open(self, base: Base) -> Step:
        """Load both factors; a step is one product and one sum."""
        product, scratch = self.product(base.dtype), _scratch()

        def step(tile: Array, original: Array | None, row: int) -> None:
            tile += product(scratch(tile), row)

        return step

    def describe(self) -> Mapping[str, object]:
        """Name rank and scale."""
        return {"kind": "low-rank", "rank": self.rank, "scale": self.scale}


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

    def open(self, base: Base) -> Step:
        """Load factors and magnitude; by column, take the norms in a pass over the base first."""
        import numpy as np

        product, scratch = self.low.product(base.dtype), _scratch()
        magnitude = self.magnitude.read(base.dtype).reshape(-1)
        columns = self._column_factors(base, product, magnitude) if self.by_column else None

        def step(tile: Array, original: Array | None, row: int) -> None:
            moved = product(scratch(tile), row)
            factor = columns
            if factor is None:
                factor = rows(moved, tile if original is None else original, row)
            moved += tile
            moved *= factor
            _blend(tile, moved, self.weight)

        def rows(moved: Array, base_rows: Array, row: int) -> Array:
            whole = moved + base_rows
            norms = np.sqrt(np.einsum("ij,ij->i", whole, whole, dtype=np.float64))
            part = magnitude[row : row + len(moved)]
            return _ratio(part, norms).astype(base.dtype)[:, None]

        return step

    def _column_factors(
        self, base: Base, product: Callable[[Array, int], Array], magnitude: Array
    ) -> Array:
        import numpy as np

        squares, scratch = np.zeros(base.shape[1]), _scratch()
        for row, tile in base.tiles():
            moved = product(scratch(tile), row)
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


def _blend(tile: Array, moved: Array, weight: float) -> None:
    """Move the tile by `weight` of the way to `moved`; all the way without a rounding."""
    if weight == 1.0:
        tile[:] = moved
    else:
        moved -= tile
        moved *= weight
        tile += moved


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows replaced by new ones: W[indices[i]] = values[i]. peft/tuners/trainable_tokens."""

    indices: tuple[int, ...]
    values: Matrix
    weight: float = 1.0
    additive = False

    @property
    def shape(self) -> None:
        """It fits any weight that has those rows."""
        return

    def open(self, base: Base) -> Step:
        """Load the rows."""
        values = self.values.read(base.dtype)

        def step(tile: Array, original: Array | None, row: int) -> None:
            for index, value in zip(self.indices, values, strict=True):
                if row <= index < row + len(tile):
                    _blend(tile[index - row], value.copy(), self.weight)

        return step

    def describe(self) -> Mapping[str, object]:
        """Name how many rows."""
        return {"kind": "rows", "rows": len(self.indices), "weight": self.weight}


@dataclass(frozen=True, slots=True)
class Toward:
    """W + weight · (R − W): part of the way to a whole saved tensor R."""

    values: RowMatrix
    weight: float
    additive = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the saved tensor."""
        return self.values.shape

    def open(self, base: Base) -> Step:
        """Read the saved tensor's rows as the tiles come by."""

        def step(tile: Array, original: Array | None, row: int) -> None:
            _blend(tile, self.values.rows(row, row + len(tile), base.dtype), self.weight)

        return step

    def describe(self) -> Mapping[str, object]:
        """Name the weight."""
        return {"kind": "toward", "weight": self.weight}


@dataclass(frozen=True, slots=True)
class Shift:
    """b + scale · vector, for a bias: one column. peft/tuners/lora/layer.py, `lora_bias`."""

    vector: Matrix  # (n, 1)
    scale: float
    additive = True

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the vector."""
        return self.vector.shape

    def open(self, base: Base) -> Step:
        """Load the vector."""
        import numpy as np

        vector = self.vector.read(base.dtype) * np.dtype(base.dtype).type(self.scale)

        def step(tile: Array, original: Array | None, row: int) -> None:
            tile += vector[row : row + len(tile)]

        return step

    def describe(self) -> Mapping[str, object]:
        """Name the scale."""
        return {"kind": "shift", "scale": self.scale}


@dataclass(frozen=True, slots=True)
class Truncate:
    """W without its `rank` smallest singular components. KaSA, arXiv:2412.06071.

    Rounded to the stored dtype, because that is the base that PEFT trained on
    (peft/tuners/lora/variants.py, `_truncate_base_weight`; PEFT's SVD is float32, ours float64).
    Needs the whole matrix in memory.
    """

    rank: int
    additive = False

    @property
    def shape(self) -> None:
        """It fits any matrix."""
        return

    def open(self, base: Base) -> Step:
        """Factorise the base once."""
        import numpy as np

        whole = np.concatenate([tile.astype(np.float64) for _, tile in base.tiles()])
        left, values, right = np.linalg.svd(whole, full_matrices=False)
        keep = len(values) - self.rank
        kept = base.stored((left[:, :keep] * values[:keep]) @ right[:keep]).astype(base.dtype)

        def step(tile: Array, original: Array | None, row: int) -> None:
            if original is not None:
                tile -= original
                tile += kept[row : row + len(tile)]
            else:
                tile[:] = kept[row : row + len(tile)]

        return step

    def describe(self) -> Mapping[str, object]:
        """Name how many components go."""
        return {"kind": "truncate", "rank": self.rank}
