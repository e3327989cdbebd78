"""How one logical weight lies in several stored tensors: codes, scales, and what goes with them.

A codec knows one packing, as arithmetic on row tiles; it sees no file. Quantised values are
`values[rank[code]] · scale`, the scale expanded to the element, all in float32. Tiles are
(rows, columns) of the logical weight as it is stored, further axes flattened into the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

CODES = "codes"  # the role of the tensor that holds the codes; every packing has one


@dataclass(frozen=True, slots=True)
class Table:
    """The values that a code can stand for, before the scale."""

    values: tuple[float, ...]  # float32, ascending, distinct
    codes: tuple[int, ...]  # the code that is stored for each value
    ranks: tuple[int, ...]  # for every code (0 … 255 or 15) its place in `values`; -1 for NaN


class Part(NamedTuple):
    """One stored tensor of a packed weight."""

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]


class Codec(Protocol):
    """One packing with its settings (block size …); frozen and picklable."""

    @property
    def kind(self) -> str:
        """Name it as `--quant` does: nf4, fp4, int8, fp8, mxfp4."""
        ...

    @property
    def bits(self) -> int:
        """Say how many bits a code takes: 4 or 8."""
        ...

    @property
    def table(self) -> Table:
        """Give the grid."""
        ...

    def step(self, columns: int) -> int:
        """Give the number that the rows of a tile must be a multiple of (but for the last tile)."""
        ...

    def parts(self, name: str, shape: tuple[int, ...], dtype: str) -> tuple[Part, ...]:
        """Say what is stored for the weight `name` of this logical shape and dtype, codes first."""
        ...

    def unpack(self, raw: Array, rows: int, columns: int) -> Array:
        """Give the codes, uint8 (rows, columns), of the stored bytes (uint8, flat) of some rows."""
        ...

    def pack(self, codes: Array) -> Array:
        """Give the stored bytes, uint8 and flat, of the codes of some rows."""
        ...

    def scales(self, stored: Mapping[str, Array], shape: tuple[int, int]) -> Array:
        """Give the scales in float32, one per block, from the side tensors as they are stored.

        `stored` maps the roles of `parts` but CODES to arrays in their stored dtype and shape.
        """
        ...

    def spread(self, scales: Array, row: int, rows: int, columns: int) -> Array:
        """Expand scales (of the whole weight) to the elements of some rows: float32.

        Any shape that broadcasts to (rows, columns).
        """
        ...

    def decode(self, codes: Array, spread: Array) -> Array:
        """Give the values, float32, bit-equal to what the format's own library computes."""
        ...


class Writer(Codec, Protocol):
    """A packing that can be made from values, with scales of its own."""

    def fit(self, tile: Array) -> Array:
        """Give the scales of a tile's blocks, float32 and flat, in the order of `scales`."""
        ...

    def nearest(self, tile: Array, scales: Array) -> Array:
        """Round a tile to codes, byte for byte as the format's own library does.

        `scales` are those of the tile's blocks only, as `fit` gave them.
        """
        ...

    def side(self, scales: Array, dtype: str, shape: tuple[int, ...]) -> Mapping[str, bytes]:
        """Give the bytes of every part but the codes, from the scales of the whole weight.

        `dtype` is the logical weight's ("BF16" …), `shape` its logical shape.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One packed weight of a base: how it is packed, and where its parts lie."""

    codec: Codec
    parts: Mapping[str, TensorSpec]  # role -> stored tensor; CODES is the one that a merge rewrites
    dtype: str  # of the logical weight: "BF16" …
    shape: tuple[int, ...]  # of the logical weight

    def logical(self) -> TensorSpec:
        """Give the weight as if it were stored plainly; file and range are those of the codes."""
        codes = self.parts[CODES]
        return codes._replace(dtype=self.dtype, shape=self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repack:
    """How the output of an edit is packed."""

    codec: Codec
    kept: bool  # on the source's own scales, which then stay as they are; else with fresh ones
    rounding: str  # nearest, stochastic or adapter (requantise.py)
    seed: int = 0

    def describe(self) -> dict[str, object]:
        """Say it in JSON."""
        scales = "kept" if self.kept else "fresh"
        said: dict[str, object] = {"to": self.codec.kind, "scales": scales}
        return said | {"rounding": self.rounding, "seed": self.seed}
