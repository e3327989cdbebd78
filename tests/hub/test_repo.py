"""What a repository holds, as the server tells it; and names that are no paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from adaptertools import hub
from adaptertools.errors import HubError, NotFound, Unsafe
from adaptertools.hub import client, known
from adaptertools.hub.repo import _issues, is_commit, named
from adaptertools.ref import Ref, parse
from tests.hub import opt_lora
from tests.hub_server import Hub

FILES = {**opt_lora.small(), "sub/notes.txt": b"x", "big.bin": b"y" * 20_000}


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub() as made:
        made.add("user/repo", FILES, scan={"big.bin": "unsafe"}, gated="auto")
        yield made


@pytest.fixture(autouse=True)
def _here(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.heal()
    server.requests.clear()
    api = HfApi(endpoint=server.endpoint, token=False)
    monkeypatch.setattr(client, "api", lambda: api)
    monkeypatch.setattr(client, "_pause", lambda done: 0.0)
    monkeypatch.setattr(known, "home", lambda: tmp_path)


def test_one_request_says_it_all(server: Hub) -> None:
    repo = hub.resolve(parse("hf://user/repo"))
    head = server.repo("user/repo").head
    assert len(server.requests) == 1
    assert (repo.id, repo.commit, repo.gated, repo.private) == ("user/repo", head.id, True, False)
    assert repo.card is not None
    assert repo.card["base_model"] == opt_lora.BASE
    assert repo.unsafe == ("big.bin",)
    assert {name: file.size for name, file in repo.files.items()} == {
        name: len(data) for name, data in FILES.items()
    }
    large, small = repo.files["big.bin"], repo.files["adapter_config.json"]
    assert (large.sha256, large.status) == (head.files["big.bin"].sha256, "unsafe")
    assert (small.sha256, small.blob) == (None, head.files["adapter_config.json"].blob)
    assert small.status == "safe"
    assert known.recall("user/repo", None) == known.recall("user/repo", head.id) == repo


def test_sizes_that_the_first_answer_lacks(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hub.resolve(parse("hf://user/repo"))
    asked = HfApi.model_info

    def sizeless(self: HfApi, *args: Any, **how: Any) -> Any:
        info = asked(self, *args, **how)
        for sibling in info.siblings or ():
            sibling.size = sibling.lfs = sibling.blob_id = None
        return info

    monkeypatch.setattr(HfApi, "model_info", sizeless)
    server.requests.clear()
    assert hub.resolve(parse("hf://user/repo")) == whole
    assert len(server.requests) == 2


def test_a_server_that_does_not_say_the_commit(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vague(self: HfApi, *args: Any, **how: Any) -> Any:
        return type("Info", (), {"sha": "main", "id": "user/repo"})()

    monkeypatch.setattr(HfApi, "model_info", vague)
    with pytest.raises(HubError, match="does not say which commit"):
        hub.resolve(parse("hf://user/repo"))


def test_advice_is_a_courtesy(server: Hub) -> None:
    with pytest.raises(NotFound, match=r"Near it: user/repo\."):
        hub.resolve(parse("hf://user/rep"))
    server.fault("503", path="/api/datasets/*")
    server.fault("503", path="/api/models?author*")
    with pytest.raises(NotFound, match="no such repository"):
        hub.resolve(parse("hf://user/rep"))


def test_how_a_base_stands(server: Hub) -> None:
    server.add("user/plain", opt_lora.small())
    server.add("user/before", opt_lora.small())
    server.move("user/before", "user/after")
    asked = ("user/plain", "user/nowhere", "user/repo", "user/before")
    assert [hub.standing(name) for name in asked] == ["ok", "missing", "gated", "moved: user/after"]
    server.fault("503", path="/api/models/*")
    with pytest.raises(HubError, match=r"could not be asked about user/plain.*503"):
        hub.standing("user/plain")


SCANS: list[tuple[Any, dict[str, str], bool | None]] = [
    (None, {}, None), ("odd", {}, None), ([], {}, None), ({}, {}, None),
    ({"scansDone": True, "filesWithIssues": []}, {}, True),
    ({"scansDone": False}, {}, False),
    ({"scansDone": True, "filesWithIssues": [{"path": "a", "level": "unsafe"}]}, {"a": "unsafe"},
     True),
    ({"filesWithIssues": ["a", {"file": "b", "status": "caution"}, 7, {"x": 1}]},
     {"a": "unsafe", "b": "caution"}, None),
    ({"scansDone": "yes", "filesWithIssues": 3}, {}, None),
]  # fmt: skip


@pytest.mark.parametrize("scan", SCANS, ids=range(len(SCANS)))
def test_a_scan_of_any_shape(scan: tuple[Any, dict[str, str], bool | None]) -> None:
    told, issues, done = scan
    assert _issues(told) == (issues, done)


def test_commits_and_names() -> None:
    assert is_commit("0" * 40)
    assert is_commit("f" * 64)
    assert not any(map(is_commit, (None, "main", "0" * 39, "0" * 41, "G" * 40)))
    for text in ("user/repo", "user/repo@v1", "user/repo@a%2Fb/c/d", "user/repo@refs/pr/1/sub"):
        assert named(parse(text)) == text
    assert named(Ref("x", url="s3://b/c")) == "s3://b/c"


GOOD = ["a", "adapter_config.json", "checkpoint-6/adapter_model.safetensors", "é.txt", ".hidden",
        "a b.txt", "console.txt", "com10", ".gitattributes", "x" * 255]  # fmt: skip
BAD = ["", "..", ".", "../a", "a/../b", "/a", "a//b", "a/", "a\\b", "c:a", "nul", "NUL.txt", "COM1",
       "lpt9.tar.gz", "Aux/x", "a\0b", "a\nb", "a\u202eb", "a.", "a ", "a/.git/x", ".GIT",
       "x" * 256, "\ud800"]  # fmt: skip


@pytest.mark.parametrize("name", GOOD, ids=range(len(GOOD)))
def test_names_that_may_be_paths(name: str) -> None:
    assert hub.safe_name(name) == name


@pytest.mark.parametrize("name", BAD, ids=range(len(BAD)))
def test_names_that_may_not(name: str) -> None:
    with pytest.raises(Unsafe) as caught:
        hub.safe_name(name)
    assert str(caught.value).isprintable()
    assert name in hub.hostile([name, "a"])


def test_names_that_are_one_on_some_disks() -> None:
    assert hub.hostile(["Readme.md", "readme.md", "other"]).keys() == {"Readme.md"}
    assert hub.hostile(["e\u0301", "\u00e9"]).keys() == {"\u00e9"}
    assert hub.hostile(["a", "a/b", "A/c"]).keys() == {"a"}
    assert hub.hostile(["a/b", "A/c"]) == {}
