"""One tensor, by tiles: read, widen, change, round once, write at its place.

Memory is a few tiles per thread, whatever the size of the tensor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.rounding import Rounding, Tally, narrow
from adaptertools.tensorfile import FLOATS, TensorSpec, dtype_of, raw_bytes, read_into
from adaptertools.update import Opened

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
_WIDE = {"F32": "F64", "F64": "F64", "F16": "F32", "BF16": "F32"}


class _Stored:
    """A stored weight as tiles; the `Base` that updates see."""

    def __init__(self, spec: TensorSpec, file: int, wide: str) -> None:
        self.spec, self.file, self.wide = spec, file, wide
        self.dtype = FLOATS[wide]
        self.shape = (spec.rows, spec.columns)
        self.step = max(TILE // max(spec.columns, 1), 1)  # rows of a tile

    def tiles(self) -> Iterator[tuple[int, Array]]:
        for row, raw in self.read("scan"):
            tile = _space.take("scan", self.wide, *raw.shape)
            tile[...] = raw
            yield row, tile

    def stored(self, values: Array) -> Array:
        return values.astype(dtype_of(self.spec.dtype))

    def read(self, role: str) -> Iterator[tuple[int, Array]]:
        """Give the stored rows, tile by tile; each is overwritten by the next."""
        rows, columns = self.shape
        itemsize = dtype_of(self.spec.dtype).itemsize
        for row in range(0, rows, self.step):
            raw = _space.take(role + " raw", self.spec.dtype, min(self.step, rows - row), columns)
            read_into(self.file, raw, self.spec.start + row * columns * itemsize)
            yield row, raw


def run_edit(
    edit: Edit, source: int, out: int, at: int, nonfinite: bool, progress: Callable[[int], None]
) -> Rounding | None:
    """Read, change, round and write one tensor."""
    import numpy as np

    # Twice the stored precision, so that the sum is exact enough for the one rounding to be right.
    wide = max(_WIDE[edit.source.dtype], _WIDE[edit.dtype], key=("F32", "F64").index)
    base = _Stored(edit.source, source, wide)
    with np.errstate(all="ignore"):
        opened = [update.open(base) for update in edit.updates]
        tally = Tally(edit, opened)
        for row, raw in base.read("edit"):
            rounded = _space.take("out", edit.dtype, *raw.shape)
            _tile(raw, rounded, row, wide, opened, tally, nonfinite)
            _write(out, rounded, at + row * raw.shape[1] * rounded.itemsize)
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
    for i, (step, _) in enumerate(opened):
        step(tile, original if i else None, row)
    narrow(tile, rounded)
    if not nonfinite:
        tally.check_range(tile, rounded)
    if tally.measuring:
        tally.after(raw, original, tile, rounded, _space.take("error", wide, *raw.shape))
    tally.tiles += 1


def _write(out: int, array: Array, offset: int) -> None:
    view, done = raw_bytes(array), 0
    while done < len(view):
        done += os.pwrite(out, view[done:], offset + done)
