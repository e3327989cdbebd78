"""Run a job: one shard, streamed. Untouched bytes are copied by the kernel, touched ones by tiles.

A tile is read, widened, changed, rounded once and written at its place. Memory is a few tiles per
thread, whatever the size of a shard or a tensor.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools.errors import Unsupported, shown
from adaptertools.jobs import Edit, ShardJob
from adaptertools.tensorfile import TensorSpec, dtype_of, read_into
from adaptertools.update import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

TILE = 1 << 18  # elements; 1 MiB of float32, so that tile and scratch stay in the cache
STATE = ".adaptertools"  # the folder of what `--resume` needs; gone when the output is complete
SAMPLED = 1 << 20  # elements above which rounding is measured on every eighth tile
CHUNK = 1 << 24  # bytes per kernel copy, so that progress moves and Ctrl-C is heard

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How exact one edit came out, in units of the weight."""

    tensor: str
    max_error: float  # |stored − exact|, largest
    mean_error: float
    swallowed: float  # share of elements that the rounding left as they were
    update_norm: float  # ‖update‖ / ‖weight‖
    measured: int  # elements that errors and share were measured on


def partial(file: Path) -> Path:
    """Name the unfinished file; the final name only ever holds a finished one."""
    return file.with_name(file.name + ".partial")


def write(
    job: ShardJob, folder: Path, workers: int = 1, nonfinite: bool = False, progress: Progress = id
) -> list[Rounding]:
    """Write the shard under its partial name and give how exact each edit came out.

    Raises Unsupported where a merged weight leaves the range of its dtype, unless `nonfinite`.
    """
    with ExitStack() as stack:
        out = _open(stack, partial(folder / job.file), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(out, job.nbytes)
        os.pwrite(out, job.header, 0)
        names = {e.source.file for e in job.edits}
        files = {name: _open(stack, name, os.O_RDONLY) for name in sorted(names)}
        pool = stack.enter_context(ThreadPoolExecutor(max(workers, 1)))
        # On an error or Ctrl-C what has not begun never does.
        stack.callback(pool.shutdown, cancel_futures=True)
        copies, edits = _split(job)
        copying = [pool.submit(_copy, files[f], out, *at, progress) for f, *at in copies]
        editing = [
            pool.submit(_edit, edit, files[edit.source.file], out, at, nonfinite, progress)
            for edit, at in edits
        ]
        for future in copying:
            future.result()
        return [r for r in (future.result() for future in editing) if r is not None]


def commit(file: Path, said: list[Rounding]) -> None:
    """Make the shard last, note how exact it came out, and give it its final name."""
    descriptor = os.open(partial(file), os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    note = _note(file)
    note.parent.mkdir(exist_ok=True)
    partial(note).write_text(json.dumps([asdict(rounding) for rounding in said]))
    partial(note).replace(note)
    partial(file).replace(file)


def run_job(
    job: ShardJob, folder: Path, workers: int = 1, nonfinite: bool = False
) -> list[Rounding]:
    """Write and finish one shard; what an injected `map` calls. Done before, it is not done again."""
    done = finished(job, folder)
    if done is None:
        done = write(job, folder, workers, nonfinite)
        commit(folder / job.file, done)
    return done


def run_all(
    jobs: Iterable[ShardJob], folder: Path, workers: int, nonfinite: bool, progress: Progress
) -> list[list[Rounding]]:
    """Write shard after shard with all workers; one shard reaches the disk while the next is made."""
    results, commits = [], []
    with ThreadPoolExecutor(1) as disk:
        for job in jobs:
            done = finished(job, folder)
            if done is None:
                done = write(job, folder, workers, nonfinite, progress)
                commits.append(disk.submit(commit, folder / job.file, done))
            else:
                progress(job.nbytes)
            results.append(done)
    for future in commits:
        future.result()
    return results


def finished(job: ShardJob, folder: Path) -> list[Rounding] | None:
    """Give how exact a finished shard came out, None where it is not finished."""
    file = folder / job.file
    if not file.is_file() or not _note(file).is_file():
        return None
    return [Rounding(**item) for item in json.loads(_note(file).read_text())]


def _note(file: Path) -> Path:
    return file.parent / STATE / (file.name + ".json")


def _open(stack: ExitStack, path: str | Path, flags: int) -> int:
    descriptor = os.open(path, flags, 0o644)
    stack.callback(os.close, descriptor)
    return descriptor


def _split(job: ShardJob) -> tuple[list[tuple[str, int, int, int]], list[tuple[Edit, int]]]:
    """Give the byte runs to copy (file, from, to, length), joined where they touch, and the edits."""
    runs: list[tuple[str, int, int, int]] = []
    edits: list[tuple[Edit, int]] = []
    at = len(job.header)
    for edit in job.edits:
        if not edit.copied:
            edits.append((edit, at))
        elif edit.nbytes:
            source = edit.source
            if runs and runs[-1] == (source.file, source.start - runs[-1][3], at - runs[-1][3], runs[-1][3]):  # noqa: E501
                runs[-1] = (*runs[-1][:3], runs[-1][3] + edit.nbytes)
            else:
                runs.append((source.file, source.start, at, edit.nbytes))
        at += edit.nbytes
    return runs, edits


def _copy(source: int, out: int, start: int, to: int, length: int, progress: Progress) -> None:
    done = 0
    while done < length:
        count = min(CHUNK, length - done)
        count = _copy_some(source, out, start + done, to + done, count)
        done += count
        progress(count)


def _copy_some(source: int, out: int, start: int, to: int, count: int) -> int:
    try:
        done = os.copy_file_range(source, out, count, start, to)
    except (OSError, AttributeError) as error:
        # Other file systems, other kernels, other systems: through memory then.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        done = os.pwrite(out, os.pread(source, min(count, 1 << 20), start), to)
    if done == 0:
        raise OSError(errno.EIO, "a source file ended early")
    return done


class _Space(threading.local):
    """The buffers of one thread, kept from tile to tile."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Array] = {}

    def take(self, role: str, dtype: str, rows: int, columns: int) -> Array:
        import numpy as np

        count = rows * columns
        held = self.kept.get((role, dtype))
        if held is None or held.size < count:
            held = self.kept[role, dtype] = np.empty(max(count, TILE), dtype_of(dtype))
        return held[:count].reshape(rows, columns)


_space = _Space()
_WIDE = {"F32": "F64", "F64": "F64", "F16": "F32", "BF16": "F32"}
_LARGEST = {"F32": 1e18, "F64": 1e150, "F16": 65504.0, "BF16": 1e18}
_WIDER = {"F32": "float32", "F64": "float64"}


class _Stored:
    """A stored weight as tiles; the `Base` that updates see."""

    def __init__(self, spec: TensorSpec, file: int, wide: str) -> None:
        self.spec, self.file, self.wide = spec, file, wide
        self.dtype = _WIDER[wide]
        self.shape = (spec.rows, spec.columns)

    def tiles(self) -> Iterator[tuple[int, Array]]:
        for row, _, tile in self.read("scan"):
            yield row, tile

    def stored(self, values: Array) -> Array:
        return values.astype(dtype_of(self.spec.dtype))

    def read(self, role: str) -> Iterator[tuple[int, Array, Array]]:
        """Give row, stored tile and widened tile; both are overwritten by the next."""
        rows, columns = self.shape
        step = min(max(TILE // max(columns, 1), 1), rows)
        itemsize = dtype_of(self.spec.dtype).itemsize
        for row in range(0, rows, step):
            count = min(step, rows - row)
            raw = _space.take(role + " raw", self.spec.dtype, count, columns)
            read_into(self.file, raw, self.spec.start + row * columns * itemsize)
            tile = _space.take(role, self.wide, count, columns)
            tile[...] = raw
            yield row, raw, tile


def _edit(
    edit: Edit, source: int, out: int, at: int, nonfinite: bool, progress: Progress
) -> Rounding | None:
    import numpy as np

    # Twice the stored precision, so that the sum is exact enough for the one rounding to be right.
    wide = max(_WIDE[edit.source.dtype], _WIDE[edit.dtype], key=("F32", "F64").index)
    base = _Stored(edit.source, source, wide)
    with np.errstate(all="ignore"):
        steps = [update.open(base) for update in edit.updates]
        tally = _Tally(edit)
        for row, raw, tile in base.read("tile"):
            original = tally.before(tile)
            for i, step in enumerate(steps):
                step(tile, original if i else None, row)
            rounded = _space.take("out", edit.dtype, *tile.shape)
            rounded[...] = tile
            if not nonfinite:
                _check_range(edit, tile, rounded)
            offset = at + row * tile.shape[1] * rounded.itemsize
            _write(out, rounded, offset)
            tally.after(raw, original, tile, rounded)
            progress(rounded.nbytes)
        return tally.result()


def _write(out: int, array: Array, offset: int) -> None:
    view, done = memoryview(array.view("u1").reshape(-1)), 0
    while done < len(view):
        done += os.pwrite(out, view[done:], offset + done)


class _Tally:
    """Keeps the rounding error of one edit while its tiles go by.

    Of a large tensor every eighth tile is compared, spread evenly; norms are of all of it.
    """

    def __init__(self, edit: Edit) -> None:
        self.edit = edit
        self.plain = len(edit.updates) == 1 and isinstance(edit.updates[0], LowRank)
        self.every = 8 if edit.source.rows * edit.source.columns > SAMPLED else 1
        self.count = self.same = self.seen = 0
        self.worst = self.total = self.weight = self.moved = 0.0

    def before(self, tile: Array) -> Array | None:
        """Keep the base's rows where a later update or the norm of the update needs them."""
        import numpy as np

        flat = tile.reshape(-1)
        self.weight += float(np.vdot(flat, flat))
        if self.plain or not self.edit.updates:
            return None
        original = _space.take("original", _code(tile), *tile.shape)
        original[...] = tile
        return original

    def after(self, raw: Array, original: Array | None, tile: Array, rounded: Array) -> None:
        """Compare what was stored with what was meant."""
        import numpy as np

        if original is not None:
            moved = np.subtract(tile, original, out=original).reshape(-1)
            self.moved += float(np.vdot(moved, moved))
        self.seen += 1
        if (self.seen - 1) % self.every:
            return
        error = _space.take("error", _code(tile), *tile.shape)
        np.subtract(rounded, tile, out=error)
        np.abs(error, out=error)
        self.worst = max(self.worst, float(error.max(initial=0.0)))
        self.total += float(error.sum())
        if rounded.dtype == raw.dtype:
            bits = f"u{raw.itemsize}"
            self.same += int(np.count_nonzero(rounded.view(bits) == raw.view(bits)))
        self.count += tile.size

    def result(self) -> Rounding | None:
        """Sum up; None for an edit that only changed the dtype."""
        if not self.edit.updates:
            return None
        moved = _product_norm(self.edit.updates[0]) if self.plain else self.moved**0.5
        ratio = moved / self.weight**0.5 if self.weight else float(moved > 0)
        count = max(self.count, 1)
        return Rounding(
            tensor=self.edit.name, max_error=self.worst, mean_error=self.total / count,
            swallowed=self.same / count if moved else 0.0, update_norm=ratio, measured=self.count,
        )  # fmt: skip


def _check_range(edit: Edit, tile: Array, rounded: Array) -> None:
    """Refuse a weight that is not finite once stored."""
    import numpy as np

    # No element is larger than the norm: one product settles nearly every tile.
    flat = tile.reshape(-1)
    if float(np.vdot(flat, flat)) < _LARGEST[edit.dtype] ** 2:
        return
    if not np.isfinite(rounded).all():
        raise Unsupported(
            f"{shown(edit.name)}: the merged weight is not finite in {edit.dtype}. "
            "Either base or adapter hold NaN or infinity, or the sum is out of range. "
            "Choose a wider --dtype, or pass --allow-nonfinite to write it all the same."
        )


def _code(tile: Array) -> str:
    return "F64" if tile.itemsize == 8 else "F32"


def _product_norm(update: object) -> float:
    """‖s·B·A‖ from the factors alone: ‖BA‖² = tr((BᵀB)(AAᵀ))."""
    assert isinstance(update, LowRank)
    up, down = update.up.read("float64"), update.down.read("float64")
    square = float(((up.T @ up) * (down @ down.T)).sum())
    return abs(update.scale) * max(square, 0.0) ** 0.5
