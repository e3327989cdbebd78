"""One tensor, by tiles: read, widen, change, round once, write at its place.

Memory is a few tiles per thread, whatever the size of the tensor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.rounding import Rounding, Tally, narrow
from adaptertools.tensorfile import FLOATS, TensorSpec, dtype_of, raw_bytes, read_into
from adaptertools.unpacked import height
from adaptertools.update import Opened, change, together

if TYPE_CHECKING:
    from adaptertools.update import Array

TILE = 1 << 19  # elements; fewer, and threads would wait for the interpreter more than for memory


class _Space(threading.local):
    """The buffers of one thread, kept from tile to tile."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Array] = {}

    def take(self, role: str, dtype: str, rows: int, columns: int) -> Array:
        import numpy as np

        count = rows * columns
        held = self.kept.get((role, dtype))
        if held is None or held.size < count:
            held = self.kept[role, dtype] = np.empty(count, dtype_of(dtype))
        return held[:count].reshape(rows, columns)


_space = _Space()
WIDE = {  # the dtype of the arithmetic for each stored dtype
    "F32": "F64",
    "F64": "F64",
    "F16": "F32",
    "BF16": "F32",
}


class Stored:
    """A stored weight as tiles; the `Base` that updates see."""

    def __init__(self, spec: TensorSpec, file: int, wide: str, step: int = 0) -> None:
        """Take where it lies, the dtype of the arithmetic, and the rows of a tile if it matters."""
        self.spec, self.file, self.wide = spec, file, wide
        self.dtype = FLOATS[wide]
        self.shape = (spec.rows, spec.columns)
        self.step = step or max(TILE // max(spec.columns, 1), 1)  # rows of a tile

    def tiles(self, starts: Sequence[int] | None = None) -> Iterator[tuple[int, Array]]:
        """Give the widened rows, tile by tile; each is overwritten by the next."""
        for row, raw in self.read("scan", starts):
            tile = _space.take("scan", self.wide, *raw.shape)
            tile[...] = raw
            yield row, tile

    def stored(self, values: Array) -> Array:
        """Round values as storing them would."""
        return values.astype(dtype_of(self.spec.dtype))

    def read(self, role: str, starts: Sequence[int] | None = None) -> Iterator[tuple[int, Array]]:
        """Give the stored rows, tile by tile; each is overwritten by the next."""
        rows, columns = self.shape
        itemsize = dtype_of(self.spec.dtype).itemsize
        for row in range(0, rows, self.step) if starts is None else starts:
            raw = _space.take(role + " raw", self.spec.dtype, min(self.step, rows - row), columns)
            read_into(self.file, raw, self.spec.start + row * columns * itemsize)
            yield row, raw


def run_edit(
    edit: Edit, files: Mapping[str, int], out: int, places: Mapping[str, int], nonfinite: bool,
    progress: Callable[[int], None],
) -> Rounding | None:  # fmt: skip
    """Read, change, round and write one tensor; `files` are open, `places` are in the output."""
    import numpy as np

    source, at = files[edit.source.file], places[edit.name]
    # Twice the stored precision, so that the sum is exact enough for the one rounding to be right.
    wide = max(WIDE[edit.source.dtype], WIDE[edit.dtype], key=("F32", "F64").index)
    step = height(together(edit.updates), edit.source.columns, TILE)
    base = Stored(edit.source, source, wide, step)
    with np.errstate(all="ignore"):
        opened = [update.open(base) for update in edit.updates]
        tally = Tally(edit, opened)
        for row, raw in base.read("edit"):
            rounded = _space.take("out", edit.dtype, *raw.shape)
            _tile(raw, rounded, row, wide, opened, tally, nonfinite)
            write(out, rounded, at + row * raw.shape[1] * rounded.itemsize)
            progress(rounded.nbytes)
        return tally.result()


def _tile(
    raw: Array, rounded: Array, row: int, wide: str, opened: Sequence[Opened], tally: Tally,
    nonfinite: bool,
) -> None:  # fmt: skip
    """Widen one tile, apply the updates, round once."""
    tile = _space.take("tile", wide, *raw.shape)
    tile[...] = raw
    original = None
    if tally.mixed:
        original = _space.take("original", wide, *raw.shape)
        original[...] = tile
    if tally.measuring:
        tally.before(tile)
    change(opened, tile, original, row)
    narrow(tile, rounded)
    if not nonfinite:
        tally.check_range(tile, rounded)
    if tally.measuring:
        tally.after(raw, original, tile, rounded, _space.take("error", wide, *raw.shape))
    tally.tiles += 1


def write(out: int, array: Array, offset: int) -> None:
    """Write the bytes of a contiguous array at an offset of an open file."""
    view, done = raw_bytes(array), 0
    while done < len(view):
        done += os.pwrite(out, view[done:], offset + done)
