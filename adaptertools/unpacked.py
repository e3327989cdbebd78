"""A packed weight as tiles of float32: what updates and checks see of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.packing import CODES, Packed
from adaptertools.tensorfile import dtype_of, read_into

if TYPE_CHECKING:
    from adaptertools.update import Array

TILE = 1 << 20  # elements: rounding with feedback takes many small steps, fewer of taller tiles


class Unpacked:
    """A packed weight as tiles of float32; the `Base` that updates see."""

    dtype = "float32"

    def __init__(
        self, packed: Packed, files: Mapping[str, int], tile: int = TILE, multiple: int = 1
    ) -> None:
        """Take the weight and open descriptors of its files; read its scales.

        Tiles are of about `tile` elements, their rows a multiple of `multiple` and of what the
        packing needs itself.
        """
        self.packed, self.codec, self.codes_spec = packed, packed.codec, packed.parts[CODES]
        self.file = files[self.codes_spec.file]
        logical = packed.logical()
        self.shape = (logical.rows, logical.columns)
        side = {r: tensorfile.read(s) for r, s in packed.parts.items() if r != CODES}
        self.scales = self.codec.scales(side, self.shape)
        multiple = lcm(multiple, self.codec.step(self.shape[1]))
        self.step = height(multiple, self.shape[1], tile)

    def codes(self, starts: Sequence[int] | None = None) -> Iterator[tuple[int, Array]]:
        """Give the codes, uint8 (rows, columns), of all tiles or of those with these first rows."""
        import numpy as np

        rows, columns = self.shape
        bits = self.codec.bits
        for row in range(0, rows, self.step) if starts is None else starts:
            count = min(self.step, rows - row)
            # The last byte of an odd number of half-bytes is only half used.
            first, last = row * columns * bits // 8, -(-(row + count) * columns * bits // 8)
            raw = np.empty(last - first, np.uint8)
            read_into(self.file, raw, self.codes_spec.start + first)
            yield row, self.codec.unpack(raw, count, columns)

    def spread(self, row: int, rows: int) -> Array:
        """Give the scale of every element of some rows."""
        return self.codec.spread(self.scales, row, rows, self.shape[1])

    def tiles(self) -> Iterator[tuple[int, Array]]:
        """Give the decoded rows, tile by tile."""
        for row, codes in self.codes():
            yield row, self.codec.decode(codes, self.spread(row, len(codes)))

    def stored(self, values: Array) -> Array:
        """Round values to the dtype that the packing decodes to."""
        return values.astype(dtype_of(self.packed.dtype))


def height(multiple: int, columns: int, tile: int = TILE) -> int:
    """Give the rows of a tile of about so many elements, a multiple of what the packing needs."""
    return max(tile // max(columns * multiple, 1), 1) * multiple


def decoded(packed: Packed, multiple: int = 1) -> Iterator[tuple[int, Array]]:
    """Open a packed weight and give its rows, float32, in tiles of a multiple of some rows."""
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(Path(file).open("rb")).fileno()
            for file in {spec.file for spec in packed.parts.values()}
        }
        yield from Unpacked(packed, files, multiple=multiple).tiles()


def mean_scale(packed: Packed) -> float:
    """Give the mean of a packed weight's scales."""
    rows = packed.logical()
    side = {r: tensorfile.read(s) for r, s in packed.parts.items() if r != CODES}
    return float(packed.codec.scales(side, (rows.rows, rows.columns)).mean())
