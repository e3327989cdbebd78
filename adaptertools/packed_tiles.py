"""One tensor that is packed, before or after: decode, change, round on its grid, pack.

As tiles.py does for plain tensors, by tiles of rows; a transposed one (GPT-2's Conv1D beside the
nn.Linear that packings store) is held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adaptertools.jobs import Edit
from adaptertools.requantise import Feedback, Focus, half_step
from adaptertools.retention import Survival
from adaptertools.rounding import SAMPLED, Rounding
from adaptertools.sinks import Piece, Sink, sink_for
from adaptertools.spaces import Spaces, spaces
from adaptertools.stacks import matrices
from adaptertools.tiles import WIDE, Stored
from adaptertools.unpacked import TILE, Unpacked, height
from adaptertools.update import Opened, change, together
from adaptertools.update.placed import products

if TYPE_CHECKING:
    from adaptertools.update import Array

MEASURED = 4  # tiles of a large tensor that are measured, evenly spread


class _Ready(NamedTuple):
    """A weight with its updates opened, the directions that they read, and where tiles go."""

    base: Unpacked | Stored
    opened: list[Opened]
    basis: Array | None
    sink: Sink


def run_packed(
    edit: Edit, files: Mapping[str, int], out: int, places: Mapping[str, int], nonfinite: bool,
    progress: Callable[[int], None],
) -> Rounding | None:  # fmt: skip
    """Read, change, round and write one tensor that is packed before or after, or turned.

    Fused experts go one by one: each has directions of its own.
    """
    import numpy as np

    survival = Survival(None)
    with np.errstate(all="ignore"):
        for i, one in enumerate(matrices(edit)):
            ready = _ready(one, _base(one, files), nonfinite)
            at = {one.name: places[edit.name] + i * one.nbytes} if edit.stored else places
            ready.sink.begin(out, at)
            survival.basis = ready.basis
            share = SAMPLED * one.nbytes // max(edit.nbytes, 1)
            for piece, band in _measured(one, ready, share):
                compared, count = ready.sink.store(piece, band)
                if compared is not None:
                    survival.add(compared)
                progress(count)
            progress(ready.sink.finish())
    return _rounding(edit, survival) if edit.updates else None


def foresee(edit: Edit, tile: int = 1 << 16, tiles: int = 4) -> Rounding | None:
    """Tell from a few evenly spread tiles what an edit will do to its update; write nothing.

    None where the update is not finite, which the run refuses.

    For edits with updates that end packed and not turned; reads the factors and those tiles (and
    whatever else the updates look at when they are opened).
    """
    import numpy as np

    survival = Survival(None)
    changed = [one for one in matrices(edit) if one.updates]
    some = changed[:: max(-(-len(changed) // tiles), 1)]
    with ExitStack() as stack, np.errstate(all="ignore"):
        files = {name: stack.enter_context(Path(name).open("rb")).fileno() for name in edit.sources}
        for one in some:
            ready = _ready(one, _base(one, files, tile), True)
            survival.basis = ready.basis
            every = range(0, ready.base.shape[0], ready.base.step)
            starts = every[:: -(-len(every) * len(some) // tiles)]
            for piece in _changed(ready.base, ready.opened, [*starts]):
                if not np.isfinite(piece.after).all():
                    return None
                compared, _ = ready.sink.store(piece, len(piece.after))
                if compared is not None:
                    survival.add(compared)
    return _rounding(edit, survival)


def _ready(edit: Edit, base: Unpacked | Stored, nonfinite: bool) -> _Ready:
    opened = [update.open(base) for update in edit.updates]
    square = bool(opened) and not edit.turned
    whole = products(edit.updates, base.shape)
    found = spaces(whole, opened, base) if square else None
    spread = base.spread if isinstance(base, Unpacked) else None
    sink = sink_for(edit, spread, _feedback(edit, base, found), nonfinite)
    return _Ready(base, opened, found.reads if found is not None else None, sink)


def _feedback(edit: Edit, base: Unpacked | Stored, change: Spaces | None) -> Feedback | None:
    """Make what steers the errors, where the rounding is steered; it serves one pass."""
    if change is None or edit.repack is None or edit.repack.rounding != "adapter":
        return None
    table = edit.repack.codec.table
    if isinstance(base, Stored) or not edit.repack.kept:
        return Feedback(change.writes, half_step(table))
    focus = Focus.of(change, table, float(base.scales.mean()))
    return Feedback(change.writes, half_step(table), focus)


def _measured(edit: Edit, ready: _Ready, sampled: int) -> Iterator[tuple[Piece, int]]:
    """Give the changed tiles, and how many rows of each are measured: of so many elements."""
    shape = ready.base.shape
    tiles = -(-shape[0] // ready.base.step)
    large = shape[0] * shape[1] > sampled
    every = -(-tiles // MEASURED) if large else 1
    few = every > 1 or (large and sampled < SAMPLED)
    band = _band(edit, shape, sampled) if few else sum(shape)
    for i, piece in enumerate(_pieces(edit, ready.base, ready.opened)):
        yield piece, band if ready.opened and i % every == 0 else 0


def _base(edit: Edit, files: Mapping[str, int], tile: int = TILE) -> Unpacked | Stored:
    columns = edit.source.columns
    multiple = edit.repack.codec.step(columns) if edit.repack is not None else 1
    multiple = lcm(multiple, together(edit.updates))
    if edit.packed is not None:
        return Unpacked(edit.packed, files, tile, multiple)
    wide = max(WIDE[edit.source.dtype], WIDE[edit.dtype], key=("F32", "F64").index)
    step = height(multiple, columns, tile)
    return Stored(edit.source, files[edit.source.file], wide, step)


def _band(edit: Edit, shape: tuple[int, ...], sampled: int) -> int:
    """Give the rows of a tile that are measured: whole blocks, and enough of all tiles together."""
    columns = shape[0] if edit.turned else shape[1]
    multiple = edit.repack.codec.step(columns) if edit.repack is not None else 1
    return -(-sampled // MEASURED // columns // multiple + 1) * multiple


def _pieces(edit: Edit, base: Unpacked | Stored, opened: Sequence[Opened]) -> Iterator[Piece]:
    """Give the changed weight, tile by tile, in the orientation of the output."""
    pieces = _changed(base, opened)
    return _turned(edit, base, pieces) if edit.turned else pieces


def _changed(
    base: Unpacked | Stored, opened: Sequence[Opened], starts: Sequence[int] | None = None
) -> Iterator[Piece]:
    for row, before, codes in _tiles(base, starts):
        after = before.copy() if opened else before
        change(opened, after, before, row)
        yield Piece(row, before, after, codes)


def _tiles(
    base: Unpacked | Stored, starts: Sequence[int] | None
) -> Iterator[tuple[int, Array, Array | None]]:
    if isinstance(base, Stored):
        for row, tile in base.tiles(starts):
            yield row, tile, None
    else:
        for row, codes in base.codes(starts):
            yield row, base.codec.decode(codes, base.spread(row, len(codes))), codes


def _turned(edit: Edit, base: Unpacked | Stored, pieces: Iterator[Piece]) -> Iterator[Piece]:
    import numpy as np

    dtype = np.dtype(base.dtype)
    before, after = np.empty(base.shape, dtype), np.empty(base.shape, dtype)
    for piece in pieces:
        part = slice(piece.row, piece.row + len(piece.after))
        before[part], after[part] = piece.before, piece.after
    rows, columns = base.shape[::-1]
    multiple = edit.repack.codec.step(columns) if edit.repack is not None else 1
    step = height(multiple, columns)
    for row in range(0, rows, step):
        part = slice(row, min(row + step, rows))
        one, two = (np.ascontiguousarray(whole[:, part].T) for whole in (before, after))
        yield Piece(row, one, two, None)


def _rounding(edit: Edit, survival: Survival) -> Rounding:
    count = max(survival.count, 1)
    norm = (survival.update / survival.weight) ** 0.5 if survival.weight else 0.0
    return Rounding(
        tensor=edit.name, max_error=survival.worst, mean_error=survival.total / count,
        swallowed=survival.same / count if survival.update else 0.0, update_norm=norm,
        measured=survival.count, retention=survival.result(),
    )  # fmt: skip
