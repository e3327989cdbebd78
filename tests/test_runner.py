"""One shard at a time: a final name is a finished file, whatever fails, and whatever is refused."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from adaptertools import runner
from adaptertools.jobs import ShardJob
from tests import tiny_llama as tiny

Jobs = tuple[ShardJob, ...]


def quiet(count: int) -> None:
    """Take progress and say nothing."""


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    """The folder of the same merge, done by `at.merge`."""
    base, adapter = tiny.small(tmp_path, torch.bfloat16, shards=3)
    at.merge(adapter, base=base, out=tmp_path / "wanted")
    return tmp_path / "wanted"


@pytest.fixture
def jobs(wanted: Path) -> Jobs:
    folder = wanted.parent
    (folder / "out").mkdir()
    return at.plan(folder / "adapter", base=folder / "base", out=folder / "elsewhere").jobs


def finished(folder: Path) -> dict[str, bytes]:
    """The shards that have their final names."""
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int, after: int = 0) -> None:
    """Let a call of the system fail, from some call on."""
    real, count = getattr(os, call), [0]

    def fail(*given: Any) -> Any:
        count[0] += 1
        if count[0] > after:
            raise OSError(number, os.strerror(number))
        return real(*given)

    monkeypatch.setattr(os, call, fail)


def test_a_job_writes_its_shard_and_nothing_else(jobs: Jobs, wanted: Path, tmp_path: Path) -> None:
    runner.run_job(jobs[1], tmp_path / "out")
    assert finished(tmp_path / "out") == {jobs[1].file: (wanted / jobs[1].file).read_bytes()}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_all_jobs_give_the_same_bytes(
    workers: int, jobs: Jobs, wanted: Path, tmp_path: Path
) -> None:
    runner.run_all(jobs, tmp_path / "out", workers, False, quiet)
    assert finished(tmp_path / "out") == finished(wanted)


def test_what_it_says_is_kept_beside_the_shard(jobs: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert runner.finished(jobs[0], folder) is None
    said = runner.run_job(jobs[0], folder)
    assert [r.tensor for r in said] == [e.name for e in jobs[0].edits if e.updates]
    assert runner.finished(jobs[0], folder) == said


def test_a_finished_shard_is_not_written_again(jobs: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    said = runner.run_job(jobs[0], folder)
    before = (folder / jobs[0].file).stat()
    assert runner.run_job(jobs[0], folder) == said
    after = (folder / jobs[0].file).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_an_unfinished_shard_is_written_from_the_start(
    jobs: Jobs, wanted: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out" / jobs[0].file
    runner.unfinished(file).write_bytes(b"\xff" * (jobs[0].nbytes + 999))
    runner.run_job(jobs[0], tmp_path / "out")
    assert finished(tmp_path / "out") == {file.name: (wanted / file.name).read_bytes()}
    assert not runner.unfinished(file).exists()


def test_a_shard_without_its_note_is_written_again(
    jobs: Jobs, wanted: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / jobs[0].file).write_bytes(b"not from us")
    runner.run_job(jobs[0], tmp_path / "out")
    assert finished(tmp_path / "out") == {jobs[0].file: (wanted / jobs[0].file).read_bytes()}


def test_progress_counts_every_byte_of_the_tensors(jobs: Jobs, tmp_path: Path) -> None:
    counts: list[int] = []
    runner.run_all(jobs, tmp_path / "out", 2, False, counts.append)
    assert sum(counts) == sum(edit.nbytes for job in jobs for edit in job.edits)
    counts.clear()
    runner.run_all(jobs, tmp_path / "out", 2, False, counts.append)
    assert sum(counts) == sum(job.nbytes for job in jobs)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_copies_go_through_memory_where_the_kernel_refuses(
    number: int, jobs: Jobs, wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "copy_file_range", number)
    runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert finished(tmp_path / "out") == finished(wanted)


def test_copies_go_through_memory_where_the_system_has_no_such_call(
    jobs: Jobs, wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "copy_file_range")
    runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert finished(tmp_path / "out") == finished(wanted)


@pytest.mark.parametrize(
    ("call", "after"), [("copy_file_range", 0), ("pwrite", 0), ("pwrite", 9), ("fsync", 1)]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_is_said_and_finishes_nothing_wrong(
    call: str, after: int, number: int, jobs: Jobs, wanted: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    refuse(monkeypatch, call, number, after)
    with pytest.raises(OSError, match=os.strerror(number)):
        runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert len(finished(tmp_path / "out")) < 3
    assert finished(tmp_path / "out").items() <= finished(wanted).items()


def test_a_disk_that_fails_while_flushing_is_heard(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "fdatasync", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        runner.run_all(jobs, tmp_path / "out", 2, False, quiet)


@pytest.mark.parametrize("in_header", [True, False])
def test_a_failure_leaves_no_file_open(
    in_header: bool, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(file: int, data: Any, offset: int, real: Any = os.pwrite) -> Any:
        if in_header or offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data, offset)

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_success_leaves_no_file_open(jobs: Jobs, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_a_base_cut_short_after_planning_is_said(jobs: Jobs, tmp_path: Path) -> None:
    for path in (tmp_path / "base").glob("*.safetensors"):
        cut(path)
    with pytest.raises((OSError, at.errors.Unreadable), match="ended"):
        runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert finished(tmp_path / "out") == {}


def test_an_adapter_cut_short_after_planning_is_said(jobs: Jobs, tmp_path: Path) -> None:
    cut(tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(at.errors.Unreadable, match="ended"):
        runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert len(finished(tmp_path / "out")) < 3


def test_an_interrupt_keeps_what_is_finished(jobs: Jobs, wanted: Path, tmp_path: Path) -> None:
    runner.run_job(jobs[0], tmp_path / "out")

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run_all(jobs, tmp_path / "out", 2, False, stop)
    assert finished(tmp_path / "out").items() <= finished(wanted).items()
    runner.run_all(jobs, tmp_path / "out", 2, False, quiet)
    assert finished(tmp_path / "out") == finished(wanted)


def test_jobs_run_in_any_order_and_side_by_side(jobs: Jobs, wanted: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda job: runner.run_job(job, tmp_path / "out", 2), jobs[::-1]))
    assert finished(tmp_path / "out") == finished(wanted)
