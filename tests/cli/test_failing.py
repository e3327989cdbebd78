"""Disks that fill up, bugs and interrupts: what is said, with which code, and what stays behind."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adaptertools import version
from adaptertools.verbs import merge as merging
from tests import handmade
from tests.cli import DEFAULT, assert_refused, contents, merge, run


def test_full_disk_is_seen_beforehand(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(street)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    assert_refused(merge(street), "takes 4,", "1 are free", str(street))
    assert contents(street) == before


def open_files() -> int:
    """Count the open files of this process, where the system lists them."""
    listed = Path("/proc/self/fd")
    return len(list(listed.iterdir())) if listed.is_dir() else 0


def no_space_after(calls: int) -> Callable[..., int]:
    """Stand in for a write that fails once the disk is full."""
    left: Iterator[int] = iter(range(calls))
    real = os.pwrite

    def pwrite(file: int, data: bytes, offset: int) -> int:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data, offset)

    return pwrite


@pytest.mark.parametrize("calls", [0, 1, 3, 5])
def test_disk_that_fills_up(calls: int, street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(street / "base")
    handmade.base(street / "base", shards=3)
    before, opened = contents(street), open_files()
    monkeypatch.setattr(os, "pwrite", no_space_after(calls))
    assert_refused(merge(street), "No space left on device")
    assert contents(street) == before
    assert open_files() == opened


def test_copy_that_finds_no_space(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(street)
    monkeypatch.setattr(os, "copy_file_range", full, raising=False)
    assert_refused(merge(street), "No space left on device")
    assert contents(street) == before


def test_folder_that_may_not_be_written(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str, *args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    before = contents(street)
    monkeypatch.setattr(os, "mkdir", denied)
    assert_refused(merge(street), "out.partial", "Permission denied")
    assert contents(street) == before


USAGE = {
    "no command": ["nonsense"],
    "unknown option": ["merge", "a", "--out", "b", "--quick"],
    "no adapter": ["merge", "--out", "b"],
    "no out": ["merge", "a"],
    "out without a value": ["merge", "a", "--out"],
    "scale is no number": ["merge", "a", "--out", "b", "--scale", "half"],
    "unknown choice": ["merge", "a", "--out", "b", "--tied", "maybe"],
    "no workers": ["merge", "a", "--out", "b", "--max-workers", "0"],
    "inspect two": ["inspect", "a", "b"],
    "verify nothing": ["verify"],
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_exit_2(case: str) -> None:
    done = run(*USAGE[case])
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.err


def test_a_bug_exits_3_with_a_report(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object, **options: object) -> None:
        raise ZeroDivisionError("one by none")

    monkeypatch.setattr(merging, "write_files", crash)
    before = contents(street)
    done = merge(street)
    assert (done.code, done.out) == (3, "")
    assert "Traceback (most recent call last)" in done.err
    assert "ZeroDivisionError: one by none" in done.err
    assert f"This is a bug in adaptertools {version.VERSION} (Python 3." in done.err
    assert contents(street) == before


def interrupt(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_exits_130_and_can_be_resumed(
    street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(merging, "write_files", interrupt)
        done = merge(street)
    assert (done.code, done.out) == (130, "")
    assert "Interrupted." in done.err
    assert "Traceback" not in done.err
    assert not (street / "out").exists()
    assert merge(street, DEFAULT + " --resume --verify").code == 0
    assert handmade.read(street / "out").keys() == handmade.merged().keys()
    assert not (street / "out.partial").exists()


def test_an_interrupt_says_how_to_go_on(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "write_files", interrupt)
    done = merge(street)
    assert "out.partial is kept" in done.err
    assert "--resume" in done.err
