"""Adapters in stores: what is read is whole or refused, what is written is whole or no adapter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

import adaptertools as at
from adaptertools.errors import HubError, NotFound
from adaptertools.hub import store_push, stores
from adaptertools.hub.ranges import StorePieces
from adaptertools.hub.store_pull import StorePuller
from tests.hub.store_flaky import CONFIG, NEW, OLD, Flaky, as_paths, clean, held, pull
from tests.hub_server_adapter import adapter


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    with clean():
        yield


@pytest.fixture(params=["memory", "file", "flaky"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/far/adapter" if request.param == "file" else f"{request.param}://a/b"


def test_there_and_back(url: str, tmp_path: Path) -> None:
    done = store_push.push(url, as_paths(NEW, tmp_path), source="user/repo")
    everything = held(url)
    receipt = json.loads(everything.pop(stores.RECEIPT))
    assert everything == NEW
    assert receipt["files"] == [
        {"name": n, "size": len(d), "sha256": sha256(d)} for n, d in sorted(NEW.items())
    ]
    repo = stores.listing(url)
    assert (repo.id, repo.commit) == (url, done.commit)
    assert {n: (f.size, f.sha256) for n, f in repo.files.items() if n in NEW} == {
        n: (len(d), sha256(d)) for n, d in NEW.items()
    }
    got = {one.path.name: one for one in pull(url, tmp_path / "out", repo.files)}
    assert {name: (tmp_path / "out" / name).read_bytes() for name in NEW} == NEW
    assert {name: got[name].sha256 for name in NEW} == {n: sha256(d) for n, d in NEW.items()}
    assert {name for name, one in got.items() if one.checked} == NEW.keys()


def test_pieces(url: str, tmp_path: Path) -> None:
    store_push.push(url, {**NEW, "deep/er/x.json": b"{}"})
    data = NEW["adapter_model.safetensors"]
    for start, stop in [(0, 8), (5, 6), (100, 9000), (len(data) - 1, len(data))]:
        assert stores.read(url, "adapter_model.safetensors", start, stop) == data[start:stop]
    pieces = StorePieces(url, stores.listing(url).files["adapter_model.safetensors"])
    assert pieces.read(len(data) - 4, len(data) + 99) == data[-4:]
    assert pieces.read(len(data), len(data) + 1) == b""
    assert stores.read(url, "deep/er/x.json", 0, 2) == b"{}"
    with pytest.raises(HubError, match="sent 2 bytes, 3 were expected"):
        stores.read(url, "deep/er/x.json", 0, 3)


def test_a_listing_stands_for_what_was_there(url: str) -> None:
    store_push.push(url, OLD)
    before = stores.listing(url)
    assert stores.listing(url).commit == before.commit
    with pytest.raises(HubError, match="since it was looked at"):
        store_push.push(url, NEW, parent="0" * 40)
    store_push.push(url, NEW, parent=before.commit, delete=["notes.txt", "absent"])
    assert stores.listing(url).commit != before.commit
    assert held(url).keys() == NEW.keys() | {stores.RECEIPT}


def test_nothing_there(url: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        stores.listing(url)
    assert stores.held(url) is None
    store_push.push(url, NEW)
    with pytest.raises(NotFound, match="is a file"):
        stores.listing(f"{url}/{CONFIG}")
    with pytest.raises(NotFound, match="no such folder or file"):
        stores.read(url, "absent", 0, 1)


def test_progress_reaches_the_total(url: str, tmp_path: Path) -> None:
    sent: list[int] = []
    store_push.push(url, as_paths(NEW, tmp_path), progress=sent.append)
    assert sum(sent) == sum(map(len, NEW.values()))
    came: list[int] = []
    puller = StorePuller(stores.listing(url), tmp_path / "out")
    for name in NEW:
        puller.get(puller.repo.files[name], came.append)
    assert sum(came) == sum(sent)


def test_what_was_fetched_is_not_fetched_again() -> None:
    url, name = "flaky://a/b", "adapter_model.safetensors"
    store_push.push(url, NEW)
    repo = stores.listing(url)
    [first] = pull(url, None, [name], repo)
    Flaky.short = 9  # another read would fail
    puller = StorePuller(repo)
    assert puller.cached(name) == first.path
    assert puller.get(repo.files[name], lambda count: None).how == "cached"
    first.path.write_bytes(b"xxx" * 9999)
    Flaky.heal()
    assert StorePuller(repo).get(repo.files[name], lambda count: None).how == "repaired"
    assert first.path.read_bytes() == NEW[name]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_every_verb_takes_a_store(scheme: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far/one" if scheme == "file" else "memory://shelf/one"
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    for name, data in adapter(layers=1, width=64).items():
        (mine / name).write_bytes(data)
    assert at.upload(mine, url).ok
    assert held(url).keys() == {*adapter(), stores.RECEIPT}
    told, local = at.inspect(url), at.inspect(mine)
    assert (told.method, told.base, told.rank) == (local.method, local.base, local.rank)
    far, near = ({f.code for f in at.validate(place).findings} for place in (url, mine))
    assert far | {"TOK003"} == near | {"TOK003"}  # of a store, the tokenizer is not looked at
    done = at.download(url, local_dir=out)
    assert done.ok
    assert (out / "adapter_model.safetensors").read_bytes() == adapter(layers=1, width=64)[
        "adapter_model.safetensors"
    ]
    assert at.verify(out).ok
    second = at.upload(mine, url)
    assert second.facts["changed"] is False
    if scheme == "memory":
        config = adapter()[CONFIG].replace(b"CAUSAL_LM", b"SEQ_CLS")
        files = fsspec.filesystem("memory")
        files.pipe_file("/shelf/one/adapter_config.json", config)
        with pytest.raises(HubError, match="if somebody changed it in the store"):
            at.inspect(url)
        files.rm_file(f"/shelf/one/{stores.RECEIPT}")
        assert at.inspect(url).task == "SEQ_CLS", "it remembers what is no longer there"
