"""What a person may type to name a thing, and what is no name."""

from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from adaptertools import hub
from adaptertools.errors import HubError, NotFound
from adaptertools.ref import Ref, parse

HUB = {
    "gpt2": ("gpt2", None, None),
    "user/repo": ("user/repo", None, None),
    "user/re-po_1.5": ("user/re-po_1.5", None, None),
    "user/repo@v1.0": ("user/repo", "v1.0", None),
    "gpt2@main": ("gpt2", "main", None),
    "hf://user/repo": ("user/repo", None, None),
    "hf://user/repo@abc123": ("user/repo", "abc123", None),
    "hf://user/repo/a/b": ("user/repo", None, "a/b"),
    "hf://user/repo@v1/checkpoint-10": ("user/repo", "v1", "checkpoint-10"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", HUB)
def test_repositories(text: str) -> None:
    repo, revision, sub = HUB[text]
    assert parse(text) == Ref(text, repo=repo, revision=revision, subfolder=sub)


@pytest.mark.parametrize("text", ["./x", "../x", ".", "..", "/x/y", "a/b/c", "./user/repo"])
def test_paths_by_their_look(text: str) -> None:
    assert parse(text) == Ref(text, path=Path(text))


def test_what_exists_is_a_path(tmp_path: Path) -> None:
    assert parse("user/repo").path is None
    (tmp_path / "user" / "repo").mkdir(parents=True)
    assert parse("user/repo").path == Path("user/repo")
    assert parse(tmp_path) == Ref(str(tmp_path), path=tmp_path)


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("~/x").path == tmp_path / "x"


NONSENSE = ["a b", "a\nb", "\0", "hf://", "hf://user", "hf://user/../x", "user/repo@", "@v1",
            "user/repo@a b", "https:x", "a..b/c"]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_refused_on_one_line(text: str) -> None:
    with pytest.raises(NotFound, match="neither a folder nor a repository") as caught:
        parse(text)
    assert str(caught.value).isprintable()


def test_nothing_is_no_name() -> None:
    with pytest.raises(NotFound):
        parse("")


def test_a_home_that_nobody_has() -> None:
    with pytest.raises(NotFound):
        parse("~no-such-user/x")


@pytest.mark.parametrize("text", ["user/repo@refs/pr/1", "user/repo@feature/x"])
def test_revisions_with_a_slash(text: str) -> None:
    repo, _, revision = text.partition("@")
    assert parse(text) == Ref(text, repo=repo, revision=revision)


def test_local_folders(tmp_path: Path) -> None:
    assert hub.local(tmp_path, "adapter") == tmp_path
    assert hub.local(str(tmp_path), "adapter") == tmp_path
    assert hub.local(Ref("x", path=tmp_path), "adapter") == tmp_path


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no such folder.*base was expected"):
        hub.local(tmp_path / "nothing", "base")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotFound, match="is a file; the adapter was expected in a folder"):
        hub.local(tmp_path / "file", "adapter")


@pytest.mark.parametrize("name", ["my-adapter-", "a--b", "-x"])
def test_names_that_the_hub_cannot_have(name: str) -> None:
    with pytest.raises(NotFound):
        hub.local(name, "adapter")


@pytest.mark.parametrize("cause", [OSError("no route"), LocalEntryNotFoundError("offline")])
def test_the_hub_cannot_be_reached(cause: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> str:
        raise cause

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(HubError, match="hf download user/repo") as caught:
        hub.local("user/repo", "adapter")
    assert caught.value.__cause__ is cause


def test_fetching_asks_for_no_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub.local("hf://user/repo@v1/deep/er", "adapter") == tmp_path / "deep" / "er"
    [(repo, revision, patterns)] = asked
    assert (repo, revision) == ("user/repo", "v1")
    for name in ("pytorch_model.bin", "adapter_model.bin", "optimizer.pt", "a.pkl", "a.gguf"):
        assert not any(fnmatch(name, pattern) for pattern in patterns), name
    assert any(fnmatch("model-00001-of-00002.safetensors", pattern) for pattern in patterns)
