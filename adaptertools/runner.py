"""Run a job: one shard, streamed. Untouched bytes are copied by the kernel, touched ones by tiles.

A tile is read, widened, changed, rounded once and written at its place. Memory is a few tiles per
thread, whatever the size of a shard or a tensor.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from adaptertools.jobs import ShardJob
from adaptertools.packed_tiles import run_packed
from adaptertools.rounding import Rounding
from adaptertools.tiles import run_edit

STATE = ".adaptertools"  # the folder of what `--resume` needs; gone when the output is complete
CHUNK = 1 << 24  # bytes per kernel copy, so that progress moves and Ctrl-C is heard

Progress = Callable[[int], None]


def unfinished(file: Path) -> Path:
    """Name the unfinished file; the final name only ever holds a finished one."""
    return file.with_name(file.name + ".partial")


def replace_text(file: Path, text: str) -> None:
    """Write a small file whole, or not at all."""
    with unfinished(file).open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished(file).replace(file)


class Shard:
    """One output shard while it is written, under its unfinished name."""

    def __init__(self, job: ShardJob, folder: Path) -> None:
        """Create the file."""
        self.job, self.file = job, folder / job.file
        self.stack = ExitStack()
        self.work: list[Future[Rounding | None]] = []
        self.out = self._open(unfinished(self.file), os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def start(self, pool: Executor, nonfinite: bool, progress: Progress) -> None:
        """Queue the copies of untouched bytes, then the edits, in the order of the file."""
        os.ftruncate(self.out, self.job.nbytes)
        os.pwrite(self.out, self.job.header, 0)
        names = sorted({name for edit in self.job.edits for name in edit.sources})
        files = {name: self._open(name, os.O_RDONLY) for name in names}
        places = self.job.places
        for file, start, to, length in _runs(self.job, places):
            self.work.append(pool.submit(_copy, files[file], self.out, start, to, length, progress))
        for edit in (edit for edit in self.job.edits if not edit.copied):
            run = run_edit if edit.plain else run_packed
            self.work.append(pool.submit(run, edit, files, self.out, places, nonfinite, progress))

    def finish(self) -> list[Rounding]:
        """Wait for all of it; give how exact each edit came out, or raise what went wrong."""
        return [done for future in self.work if (done := future.result()) is not None]

    def flush(self) -> None:
        """Let what is written reach the disk while the rest is made."""
        os.fdatasync(self.out)

    def commit(self, said: list[Rounding]) -> None:
        """Make the shard last, note how exact it came out, and give it its final name."""
        os.fsync(self.out)
        self.close()
        note = _note(self.file)
        note.parent.mkdir(exist_ok=True)
        replace_text(note, json.dumps([asdict(rounding) for rounding in said]))
        unfinished(self.file).replace(self.file)

    def close(self) -> None:
        """Close every file."""
        self.stack.close()

    def _open(self, path: str | Path, flags: int) -> int:
        descriptor = os.open(path, flags, 0o644)
        self.stack.callback(os.close, descriptor)
        return descriptor


def run_job(
    job: ShardJob, folder: Path, workers: int = 1, nonfinite: bool = False
) -> list[Rounding]:
    """Write and finish one shard, if it is not finished yet; what an injected `map` calls.

    Raises Unsupported where a merged weight leaves the range of its dtype, unless `nonfinite`.
    """
    return run_all([job], folder, workers, nonfinite, lambda count: None)[0]


def run_all(
    jobs: Sequence[ShardJob], folder: Path, workers: int, nonfinite: bool, progress: Progress
) -> list[list[Rounding]]:
    """Write shard after shard; reading, arithmetic, writing and the disk overlap.

    Raises what `run_job` raises; shards that are finished by then stay.
    """
    results = [finished(job, folder) for job in jobs]
    with ExitStack() as stack:
        begun: list[Shard] = []
        stack.callback(_close, begun)
        disk = stack.enter_context(ThreadPoolExecutor(1))
        pool = stack.enter_context(ThreadPoolExecutor(max(workers, 1)))
        # On an error or Ctrl-C what has not begun never does.
        stack.callback(pool.shutdown, cancel_futures=True)
        commits: list[Future[None]] = []
        queued: list[tuple[int, Shard]] = []
        for i, job in enumerate(jobs):
            if results[i] is not None:
                progress(job.nbytes)
                continue
            shard = Shard(job, folder)
            begun.append(shard)
            queued.append((i, shard))
            shard.start(pool, nonfinite, progress)
            # The next shard is queued before this one ends, so that no worker ever waits.
            if len(queued) > 1:
                commits.append(_settle(*queued.pop(0), results, disk))
        commits += [_settle(*pair, results, disk) for pair in queued]
        for commit in commits:
            commit.result()
    return [done or [] for done in results]


def _close(shards: Sequence[Shard]) -> None:
    for shard in shards:
        shard.close()


def _settle(
    i: int, shard: Shard, results: list[list[Rounding] | None], disk: Executor
) -> Future[None]:
    half = len(shard.work) // 2
    for future in shard.work[:half]:
        future.result()
    flushed = disk.submit(shard.flush)
    done = results[i] = shard.finish()
    flushed.result()
    return disk.submit(shard.commit, done)


def finished(job: ShardJob, folder: Path) -> list[Rounding] | None:
    """Give how exact a finished shard came out, None where it is not finished."""
    file = folder / job.file
    if not file.is_file() or not _note(file).is_file():
        return None
    try:
        return [Rounding.of(item) for item in json.loads(_note(file).read_text("utf-8"))]
    except (ValueError, TypeError):  # a note that a crash of the machine cut short
        return None


def _note(file: Path) -> Path:
    return file.parent / STATE / (file.name + ".json")


def _runs(job: ShardJob, places: Mapping[str, int]) -> list[tuple[str, int, int, int]]:
    """Give the byte runs to copy (file, from, to, length), joined where they touch."""
    runs: list[tuple[str, int, int, int]] = []
    copied = [edit for edit in job.edits if edit.copied and edit.nbytes]
    for edit in sorted(copied, key=lambda edit: places[edit.name]):
        source, at = edit.source, places[edit.name]
        file, start, to, length = runs[-1] if runs else ("", 0, 0, 0)
        if (file, start + length, to + length) == (source.file, source.start, at):
            runs[-1] = (file, start, to, length + edit.nbytes)
        else:
            runs.append((source.file, source.start, at, edit.nbytes))
    return runs


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
