"""What was verified is not hashed again; what changed since is, however it hides that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptertools.errors import HubError
from adaptertools.hub import fetch
from adaptertools.hub.memory import PASSING, Memory
from adaptertools.hub.pulls import Pull
from adaptertools.hub.repo import RemoteFile, Repo
from adaptertools.ref import parse

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    return path


@pytest.fixture
def kept(file: Path, tmp_path: Path) -> Path:
    """Give a memory that remembers the file."""
    memory = Memory(tmp_path / "home" / "m.json")
    assert memory.recall(file, DIGEST) == ""
    memory.keep(file, DIGEST, "abc")
    memory.save()
    return tmp_path / "home" / "m.json"


def in_place(path: Path) -> None:
    """Change a byte, keeping size, inode and modification time."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"D")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    """Put another file of the same size and modification time in its place."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"DATA")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def test_what_is_unchanged_is_remembered(file: Path, kept: Path) -> None:
    assert Memory(kept).recall(file, DIGEST) == "abc"
    assert Memory(kept).recall(file, "sha256:" + "1" * 64) == ""
    link = file.with_name("link")
    link.symlink_to("file")
    assert Memory(kept).recall(link, DIGEST) == "abc"


@pytest.mark.parametrize(
    "change", [in_place, replaced, lambda p: p.write_bytes(b"longer"), Path.unlink]
)
def test_what_changed_is_not(change: Callable[[Path], object], file: Path, kept: Path) -> None:
    change(file)
    assert Memory(kept).recall(file, DIGEST) == ""


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 9}', '{"version": 1, "files": []}', "[" * 10_000]
)
def test_a_damaged_memory_is_an_empty_one(text: str, file: Path, kept: Path) -> None:
    kept.write_text(text)
    memory = Memory(kept)
    assert memory.recall(file, DIGEST) == ""
    memory.keep(file, DIGEST, "abc")
    memory.save()
    assert Memory(kept).recall(file, DIGEST) == "abc"


def test_entries_of_another_shape(file: Path, kept: Path) -> None:
    kept.write_text(json.dumps({"version": 1, "files": {str(file): [DIGEST]}}))
    assert Memory(kept).recall(file, DIGEST) == ""


def test_a_place_that_cannot_be_written_costs_nothing(file: Path, tmp_path: Path) -> None:
    memory = Memory(file / "m.json")
    memory.keep(file, DIGEST, "abc")
    memory.save()
    assert file.read_bytes() == b"data"


def test_what_is_gone_or_passing_is_forgotten(file: Path, kept: Path) -> None:
    passing = file.parent / PASSING / "x"
    passing.parent.mkdir()
    passing.write_bytes(b"x")
    memory = Memory(kept)
    memory.keep(passing, DIGEST, "abc")
    file.unlink()
    memory.save()
    assert str(file) not in kept.read_text("utf-8")
    assert PASSING not in kept.read_text("utf-8")


def test_what_cannot_fit_is_not_begun() -> None:
    ref = parse("user/repo", disk=False)
    much = {"x.safetensors": RemoteFile(name="x.safetensors", size=10**18)}
    repo = Repo(id="user/repo", commit="0" * 40, files=much)
    pull = Pull(ref=ref, repo=repo, files=much, there=frozenset(), left_out={})
    with pytest.raises(HubError, match=r"user/repo: 1000000000000000000 bytes are to come"):
        fetch.run(pull)
