"""Stores that fail, lie or refuse: an error in words, and nothing damaged under a final name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from adaptertools.errors import HubError, Unsafe, Unsupported
from adaptertools.hub import store_push, stores
from adaptertools.hub.repo import RemoteFile, Repo
from adaptertools.hub.store_pull import StorePuller
from tests.hub.store_flaky import CONFIG, NEW, OLD, Flaky, as_paths, clean, held, pull


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    with clean():
        yield


@pytest.mark.parametrize("error", [OSError("on fire"), KeyboardInterrupt()], ids=["error", "kill"])
def test_half_an_upload_is_no_adapter(error: BaseException, tmp_path: Path) -> None:
    """Whichever write fails: what has a config is whole, and the next upload mends the rest."""
    url = "flaky://a/b"
    steps = 0
    while True:
        Flaky.empty()
        store_push.push(url, OLD)
        Flaky.heal()
        Flaky.fail_at, Flaky.error = steps, error  # type: ignore[assignment]
        try:
            store_push.push(url, as_paths(NEW, tmp_path), delete=["notes.txt"])
            break
        except (HubError, KeyboardInterrupt) as failed:
            told = failed
        assert isinstance(told, KeyboardInterrupt) or "no whole adapter" in told.__notes__[0]
        now = held(url)
        if CONFIG in now:
            wanted = OLD if now[CONFIG] == OLD[CONFIG] else NEW
            assert {name: now[name] for name in wanted} == wanted
        assert stores.RECEIPT not in now or CONFIG in now
        Flaky.heal()
        store_push.push(url, NEW, delete=["notes.txt"])
        assert held(url).keys() == NEW.keys() | {stores.RECEIPT}
        steps += 1
    # The old receipt and config go, notes go, three files and a receipt come.
    assert steps == 7


def test_what_a_store_loses_is_noticed(tmp_path: Path) -> None:
    Flaky.lose = "adapter_model.safetensors"
    with pytest.raises(HubError, match=r"reads otherwise: nothing, 29997 bytes were"):
        store_push.push("flaky://a/b", as_paths(NEW, tmp_path))


def test_what_a_store_garbles_is_noticed() -> None:
    Flaky.garble = CONFIG
    with pytest.raises(HubError, match=r"reads otherwise: other bytes, 8 bytes were written"):
        store_push.push("flaky://a/b", NEW)


def test_short_and_flipped_reads_leave_nothing(tmp_path: Path) -> None:
    url, out, name = "flaky://a/b", tmp_path / "out", "adapter_model.safetensors"
    store_push.push(url, NEW)
    Flaky.flips = 1  # it comes once more
    assert [one.how for one in pull(url, out, [name])] == ["repaired"]
    assert (out / name).read_bytes() == NEW[name]
    (out / name).unlink()
    whole = stores.listing(url)
    for fault in ("flips", "short"):
        setattr(Flaky, fault, 9)
        with pytest.raises(HubError, match="is damaged"):
            pull(url, out, [name], whole)
        assert list(out.iterdir()) == []
        Flaky.flips = Flaky.short = 0
    Flaky.short = 1
    with pytest.raises(HubError, match="sent 7 bytes, 8 were expected"):
        stores.read(url, name, 0, 8)


def test_what_is_changed_meanwhile_is_not_mixed(tmp_path: Path) -> None:
    url = "flaky://a/b"
    store_push.push(url, OLD)
    Flaky.after_reading = partial(fsspec.filesystem("flaky").pipe_file, f"/a/b/{CONFIG}", b"{}")
    with pytest.raises(HubError, match="written to while it was read"):
        pull(url, tmp_path / "out", OLD)


def test_a_receipt_that_does_not_fit_is_told(tmp_path: Path) -> None:
    store_push.push("memory://a/b", NEW)
    files = fsspec.filesystem("memory")
    files.pipe_file("/a/b/README.md", b"# old")  # as long as the new one
    with pytest.raises(HubError, match=r"README.md is damaged, or was changed after adaptertools"):
        pull("memory://a/b", tmp_path / "out", NEW)
    files.pipe_file(f"/a/b/{stores.RECEIPT}", b"[" * 9999)
    made = pull("memory://a/b", tmp_path / "out", ["README.md"])
    assert made[0].sha256 == hashlib.sha256(b"# old").hexdigest()


@pytest.mark.parametrize("name", ["../x", "/x", "a\\b", "nul.json", "a/../../b"])
def test_hostile_names_become_no_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unsafe):
        store_push.push("memory://a/b", {name: b"x"})
    assert held("memory://a/b") == {}
    repo = Repo(id="memory://a", commit="0", files={name: RemoteFile(name=name, size=1)})
    with pytest.raises(Unsafe):
        pull("memory://a", tmp_path, [name], repo)
    assert list(tmp_path.iterdir()) == []


class Denied(Exception):
    """What a cloud's library may raise."""


class NoCredentialsError(Denied):
    pass


@pytest.mark.parametrize("error", [PermissionError("no"), NoCredentialsError("none found")])
def test_no_credentials_are_explained(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Flaky, "ls", fail)
    monkeypatch.setitem(stores.opened.__globals__["_DRIVERS"], "flaky", ("", "", "Set FLAKY_KEY."))
    with pytest.raises(HubError, match=r"did not allow it .*Set FLAKY_KEY\.$"):
        stores.listing("flaky://a/b")


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("az", "azure")])
def test_a_driver_that_is_not_installed(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str) -> None:
        raise ImportError(f"Install {scheme}fs to access {scheme}")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    with pytest.raises(Unsupported, match=rf"Run `pip install 'adaptertools\[{extra}\]'`\.$"):
        stores.listing(f"{scheme}://bucket/x")


def test_a_folder_of_folders_is_not_walked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    for number in range(9):
        files.pipe_file(f"/many/{number}/x.json", b"{}")
    monkeypatch.setattr(stores, "FOLDERS", 5)
    assert len(stores.listing("memory://many").files) == 4


def test_the_first_failure_stops_the_others(tmp_path: Path) -> None:
    store_push.push("memory://a/b", NEW)
    repo = stores.listing("memory://a/b")
    puller = StorePuller(repo, tmp_path / "out")
    puller.stop.set()
    with pytest.raises(HubError, match="stopped"):
        puller.get(repo.files["adapter_model.safetensors"], lambda count: None)
    assert list((tmp_path / "out").iterdir()) == []
