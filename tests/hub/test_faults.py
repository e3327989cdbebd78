"""Every fault on the way down ends in whole files, or in one clear sentence and no damaged file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.hub_server import TOKEN, Hub
from tests.hub_server_adapter import adapter
from tests.hub_server_clients import Done, fan

FILES = adapter(layers=6)
# huggingface_hub touches an empty file to learn the umask; a kill may leave it.
UMASK_PROBE = re.compile(r"tmp_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BODY = "/cdn/{}/*.safetensors*"
SMALL = "/api/resolve-cache/models/{}/*adapter_config.json"
HEAD = "/{}/resolve/*.safetensors"
INFO = "/api/models/{}*"
EVERY = "*{}/*.safetensors*"
WHOLE, TOLD, EITHER = "whole", "told", "whole or told"


class Case(NamedTuple):
    """What goes wrong, and how a download has to end."""

    end: str
    faults: tuple[tuple[str, str, dict[str, Any]], ...]


def case(end: str, name: str, path: str = BODY, **limits: Any) -> Case:
    return Case(end, ((name, path, limits),))


def both(one: Case, other: Case) -> Case:
    return Case(other.end, one.faults + other.faults)


ONCE = {"times": 1}
CASES = {
    "nothing": Case(WHOLE, ()),
    # The server is not well.
    "info-503": case(WHOLE, "503", INFO, times=2),
    "info-503-wait": case(WHOLE, "503", INFO, times=1, retry_after=1),
    "info-500-ever": case(TOLD, "500", INFO),
    "info-429": case(WHOLE, "429", INFO, times=1, retry_after=1),
    "info-429-ever": case(TOLD, "429", INFO),
    "body-500": case(WHOLE, "500", **ONCE),
    "body-502-ever": case(TOLD, "502"),
    "body-503-wait": case(WHOLE, "503", times=1, retry_after=1),
    "body-503-ever": case(TOLD, "503"),
    "body-429": case(WHOLE, "429", times=1, retry_after=1),
    "body-403": case(TOLD, "403"),
    "body-404": case(TOLD, "404"),
    "small-503": case(WHOLE, "503", SMALL, **ONCE),
    "head-503": case(WHOLE, "503", HEAD, method="HEAD", times=1),
    "head-503-ever": case(TOLD, "503", HEAD, method="HEAD"),
    # The connection.
    "info-reset": case(WHOLE, "reset", INFO, **ONCE),
    "info-drop-ever": case(TOLD, "drop", INFO),
    "info-stall": case(WHOLE, "stall", INFO, times=1, seconds=6),
    "head-reset": case(WHOLE, "reset", HEAD, method="HEAD", times=1),
    "body-reset": case(WHOLE, "reset", **ONCE),
    "body-reset-amid": case(WHOLE, "reset", after=70_000, times=1),
    "body-reset-ever": case(TOLD, "reset", after=70_000),
    "body-drop": case(WHOLE, "drop", after=70_000, times=2),
    "body-drop-ever": case(TOLD, "drop", after=5),
    "body-stall": case(WHOLE, "stall", after=70_000, times=1),
    "small-drop": case(WHOLE, "drop", SMALL, after=9, times=1),
    "small-reset-ever": case(TOLD, "reset", SMALL, after=9),
    # Other bytes.
    "flip": case(WHOLE, "flip", **ONCE),
    "flip-ever": case(TOLD, "flip"),
    "flip-first": case(TOLD, "flip", at=0),
    "flip-small": case(WHOLE, "flip", SMALL, **ONCE),
    "flip-small-ever": case(TOLD, "flip", SMALL),
    "flip-card": case(TOLD, "flip", "*{}/*README.md"),
    "swap": case(WHOLE, "swap", **ONCE),
    "swap-ever": case(TOLD, "swap"),
    "swap-small-ever": case(TOLD, "swap", SMALL),
    # Other lengths.
    "short": case(WHOLE, "truncate", **ONCE),
    "short-ever": case(TOLD, "truncate"),
    "empty-ever": case(TOLD, "truncate", after=0),
    "short-small-ever": case(TOLD, "truncate", SMALL),
    "short-unsized": both(case("", "unsized", EVERY, method="*"), case(TOLD, "truncate")),
    "short-unsized-once": both(
        case("", "unsized", EVERY, method="*"), case(WHOLE, "truncate", **ONCE)
    ),
    "unsized": case(WHOLE, "unsized", "*{}*", method="*"),
    "long": case(WHOLE, "long", **ONCE),
    "long-ever": case(TOLD, "long"),
    "long-small-ever": case(TOLD, "long", SMALL),
    "length-less": case(TOLD, "length", by=-9),
    "length-more": case(TOLD, "length", by=9),
    # Ranges, after the first try broke off.
    "range-ignored": both(case("", "drop", after=70_000, times=1), case(WHOLE, "ignore-range")),
    "range-shifted": both(case("", "drop", after=70_000, times=1), case(WHOLE, "shift", **ONCE)),
    # Something else altogether.
    "html-info": case(TOLD, "html", INFO),
    "json-info": case(TOLD, "json", INFO),
    "html-body": case(WHOLE, "html", **ONCE),
    "html-body-ever": case(TOLD, "html"),
    "html-small-ever": case(TOLD, "html", SMALL),
    "html-head": case(TOLD, "html", HEAD, method="HEAD"),
    "bare-head": case(TOLD, "bare", HEAD, method="HEAD"),
    "false-etag": case(WHOLE, "etag", HEAD, method="HEAD"),
    "one-etag-for-all": case(EITHER, "etag", "*{}/*", method="HEAD"),
}


class Outcome(NamedTuple):
    done: Done
    folder: Path  # what was to hold the files
    partial: list[Path]  # all files below the place that was written to


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Outcome]]:
    """Download under every fault, once into the cache and once into a folder."""
    home = tmp_path_factory.mktemp("faults")
    jobs: dict[str, list[object]] = {}
    with Hub() as hub:
        for name, wrong in CASES.items():
            for way in ("cache", "local"):
                repo = f"user/{name}.{way}"
                hub.add(repo, FILES)
                for fault, path, limits in wrong.faults:
                    hub.fault(fault, path=path.format(repo), **limits)
                into = ["--local-dir", home / "here" / name] if way == "local" else []
                jobs[f"{name}.{way}"] = ["download", repo, "--json", *into]
        done = fan(hub, home, jobs, HF_HUB_DOWNLOAD_TIMEOUT="2", HF_HUB_ETAG_TIMEOUT="2")
        commit = {name: hub.repo(f"user/{name}").head.id for name in jobs}
        assert hub.leaks == []
    cache = home / "hf" / "hub"
    told = {}
    for name, one in done.items():
        base = cache / f"models--user--{name}"
        folder = base / "snapshots" / commit[name]
        if name.endswith(".local"):
            base = folder = home / "here" / name.removesuffix(".local")
        told[name] = Outcome(one, folder, [p for p in base.rglob("*") if p.is_file()])
    yield told
    secrets = [p for p in home.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert not secrets


@pytest.mark.parametrize("way", ["cache", "local"])
@pytest.mark.parametrize("name", CASES)
def test_whole_or_told(outcomes: Mapping[str, Outcome], name: str, way: str) -> None:
    done, folder, files = outcomes[f"{name}.{way}"]
    assert (WHOLE, TOLD)[done.code] in CASES[name].end, done.err
    if done.code == 0:
        got = {path: folder.joinpath(path).read_bytes() for path in FILES}
        assert got == FILES
        assert json.loads(done.out)
    else:
        assert_one_sentence(done.err)
    assert_nothing_damaged(files)


def test_only_our_own_words_are_heard(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add("user/repo", FILES)
        hub.fault("drop", BODY.format("user/repo"), after=5, times=1)
        done = hub.run(tmp_path, "download", "user/repo", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_one_etag_for_two_files_is_told_later_too(tmp_path: Path) -> None:
    """The cache keeps files by their ETag: the second must not silently replace the first."""
    with Hub() as hub:
        commit = hub.add("user/repo", FILES).head.id
        folder = tmp_path / "hf/hub/models--user--repo/snapshots" / commit
        for name in ("README.md", "adapter_config.json"):
            hub.fault("etag", name, method="HEAD")
        alone = hub.run(tmp_path, "download", "user/repo", "--include", "*config.json", "-q")
        assert alone.returncode == 0, alone.stderr
        assert folder.joinpath("adapter_config.json").read_bytes() == FILES["adapter_config.json"]
        done = hub.run(tmp_path, "download", "user/repo", "-q")
    assert done.returncode == 1
    assert_one_sentence(done.stderr)
    assert "one ETag" in done.stderr
    assert_nothing_damaged([path for path in folder.rglob("*") if path.is_file()])


def assert_one_sentence(text: str) -> None:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("error: "), text
    assert lines[0].endswith("."), text
    assert TOKEN not in text
    assert "signature=" not in text


def assert_nothing_damaged(files: list[Path]) -> None:
    """Hold every file under a final name against what the repository has."""
    for path in files:
        if path.name.endswith((".incomplete", ".lock")):
            continue  # a partial file under a partial name
        held = path.read_bytes()
        if UMASK_PROBE.fullmatch(path.name):
            assert held == b"", f"{path} is a probe of the umask and holds something"
            continue
        if "blobs" in path.parts:
            assert held in FILES.values(), f"{path} is damaged"
        elif path.name in FILES:
            assert held == FILES[path.name], f"{path} is damaged"
