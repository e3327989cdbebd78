"""A peek fetches what lists the tensors and no more, and keeps nothing damaged."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from adaptertools import picklefile, tensorfile
from adaptertools.errors import HubError
from adaptertools.hub import known, peek, zipped
from adaptertools.hub.names import hostile
from adaptertools.hub.peek import HEAD, Peek
from adaptertools.hub.repo import RemoteFile, Repo
from adaptertools.ref import parse

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"


class Server:
    """Holds files, gives pieces of them and remembers which."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files, self.asked, self.odd = dict(files), list[tuple[str, int, int]](), 0

    def pieces(self, file: RemoteFile) -> Any:
        server, data = self, self.files[file.name]

        class Pieces:
            size = len(data)

            def read(self, start: int, stop: int) -> bytes:
                stop = min(stop, len(data))
                server.asked.append((file.name, start, stop))
                if server.odd:
                    server.odd -= 1
                    return bytes(byte ^ 1 for byte in data[start:stop])
                return data[start:stop]

        return Pieces()


def looked(folder: Path, files: Mapping[str, bytes]) -> tuple[Peek, Server]:
    server = Server(files)
    listed = {
        name: RemoteFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }
    repo = Repo(id="user/repo", commit="0" * 40, files=listed)
    made = Peek(ref=parse("hf://user/repo"), folder=folder, repo=repo, files=listed,
                hostile=hostile(listed), pieces=server.pieces)  # fmt: skip
    return made, server


def tensors(count: int, size: int = 4_000) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {f"layers.{i}.lora_A.weight": rng.standard_normal(size, np.float32)
            for i in range(count)}  # fmt: skip


@pytest.mark.parametrize("count", [1, 20, 400])
def test_the_header_and_nothing_else(count: int, tmp_path: Path) -> None:
    data = save(tensors(count))
    end = 8 + int.from_bytes(data[:8], "little")
    made, server = looked(tmp_path / "peek", {WEIGHTS: data})
    made.want([WEIGHTS])
    rest = [(WEIGHTS, HEAD, end)] if end > HEAD else []
    assert server.asked == [(WEIGHTS, 0, min(HEAD, len(data))), *rest]
    (tmp_path / WEIGHTS).write_bytes(data)
    whole, found = (tensorfile.read_header(p / WEIGHTS) for p in (tmp_path, made.folder))
    assert [spec[1:3] for spec in found.tensors.values()] == [
        spec[1:3] for spec in whole.tensors.values()
    ]
    assert found.raw == whole.raw
    assert (made.folder / WEIGHTS).stat().st_size == len(data)
    assert (made.folder / WEIGHTS).stat().st_blocks * 512 < end + 20_000 or len(data) < 40_000


@pytest.mark.parametrize("count", [1, 20, 700])
def test_the_listing_of_a_pickle(count: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({n: torch.from_numpy(a) for n, a in tensors(count).items()}, file)
    data = file.getvalue()
    made, server = looked(tmp_path / "peek", {PICKLED: data})
    made.want([PICKLED])
    (tmp_path / PICKLED).write_bytes(data)
    whole = picklefile.read(tmp_path / PICKLED)
    found = picklefile.read(made.folder / PICKLED, partly=True)
    assert found.refused == ""
    assert found.globals == whole.globals
    assert [(s.name, s.dtype, s.shape, s.nbytes) for s in found.tensors.values()] == [
        (s.name, s.dtype, s.shape, s.nbytes) for s in whole.tensors.values()
    ]
    assert len(server.asked) <= 3
    asked = sum(stop - start for _, start, stop in server.asked)
    assert asked < zipped.TAIL + 300 * count + 20_000
    if count > 1:  # what was not fetched is not taken for a whole file
        assert picklefile.read(made.folder / PICKLED).refused


ODD = {
    "no zip": b"\x80\x02}q\x00." + random.Random(0).randbytes(100_000),
    "cut short": b"PK\3\4" + random.Random(1).randbytes(100_000),
    "an end that lies": b"PK\3\4" + bytes(99_000) + b"PK\5\6" + b"\xff" * 18,
    "an end without a directory": b"PK\3\4" + bytes(99_000) + b"PK\5\6" + bytes(18),
    "empty": b"",
    "short": b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_pickles_are_refused_as_whole_ones_are(case: str, tmp_path: Path) -> None:
    made, server = looked(tmp_path / "peek", {PICKLED: ODD[case]})
    made.want([PICKLED])
    found = picklefile.read(made.folder / PICKLED, partly=True)
    assert found.refused
    assert not found.tensors
    assert sum(stop - start for _, start, stop in server.asked) <= 4 * zipped.TAIL


def header(length: int) -> bytes:
    return length.to_bytes(8, "little") + b"{" + bytes(peek.LARGEST_HEADER + 99_999)


@pytest.mark.parametrize("length", [peek.LARGEST_HEADER + 1, 2**63, 1])
def test_a_header_that_no_adapter_needs_is_not_fetched(length: int, tmp_path: Path) -> None:
    made, server = looked(tmp_path, {WEIGHTS: header(length)})
    made.want([WEIGHTS])
    assert {stop for _, _, stop in server.asked} == {HEAD}


def test_what_is_here_is_not_fetched_again(tmp_path: Path) -> None:
    made, server = looked(tmp_path, {"a.json": b"{}", WEIGHTS: save(tensors(2))})
    made.want(["a.json", WEIGHTS, "missing.json"])
    assert made.here("a.json")
    assert made.here(WEIGHTS)
    assert not made.here("missing.json")
    before = len(server.asked)
    made.want(["a.json", WEIGHTS])
    assert len(server.asked) == before


def test_a_damaged_text_is_fetched_again_and_never_kept(tmp_path: Path) -> None:
    made, server = looked(tmp_path, {"a.json": b'{"r": 8}'})
    server.odd = 2
    with pytest.raises(HubError, match="came damaged, and again"):
        made.want(["a.json"])
    assert list(tmp_path.iterdir()) == []
    server.odd = 1
    made.want(["a.json"])
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"r": 8}


def test_a_damaged_header_is_not_kept_for_long(tmp_path: Path) -> None:
    made, server = looked(tmp_path, {WEIGHTS: save(tensors(20))})
    server.odd = 2
    made.want([WEIGHTS])  # its reader says what is wrong
    with pytest.raises(ValueError, match="not a safetensors file"):
        tensorfile.read_header(tmp_path / WEIGHTS)
    made.want([WEIGHTS])
    assert len(tensorfile.read_header(tmp_path / WEIGHTS).tensors) == 20
    before = len(server.asked)
    made.want([WEIGHTS])
    assert len(server.asked) == before


def test_many_are_fetched_side_by_side_and_one_failure_is_told(tmp_path: Path) -> None:
    names = [f"model-{i}.safetensors" for i in range(30)]
    made, server = looked(tmp_path, {name: save(tensors(20)) for name in names})
    made.want(names)
    assert len(list(tmp_path.iterdir())) == 30
    made, server = looked(tmp_path / "other", {f"{i}.json": b"x" * 9 for i in range(30)})
    server.odd = 60
    with pytest.raises(HubError, match="came damaged"):
        made.want(made.files)


def test_hostile_names_are_left(tmp_path: Path) -> None:
    made, server = looked(tmp_path / "peek", {"../up": b"x", "NUL": b"x", "/abs": b"x"})
    made.want(made.files)
    assert server.asked == []
    assert not made.here("../up")
    assert list(tmp_path.rglob("*")) == []


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def half(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        known.write(tmp_path / "a", half)
    assert list(tmp_path.iterdir()) == []
