"""What a person may type to name a thing, and what is no name."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HfUriError
from hypothesis import example, given
from hypothesis import strategies as st

from adaptertools import hub
from adaptertools.errors import NotFound
from adaptertools.ref import STORES, Ref, parse

HUB = {
    "gpt2": ("gpt2", None, None),
    "user/repo": ("user/repo", None, None),
    "user/repo/": ("user/repo", None, None),
    "user/re-po_1.5": ("user/re-po_1.5", None, None),
    "user/repo@v1.0": ("user/repo", "v1.0", None),
    "gpt2@main": ("gpt2", "main", None),
    "gpt2@main/onnx": ("gpt2", "main", "onnx"),
    "a/b/c": ("a/b", None, "c"),
    "a/b/c/d@e/": ("a/b", None, "c/d@e"),
    "user/repo@refs/pr/1": ("user/repo", "refs/pr/1", None),
    "user/repo@refs/pr/12/sub": ("user/repo", "refs/pr/12", "sub"),
    "user/repo@refs/convert/a.b-c/sub": ("user/repo", "refs/convert/a.b-c", "sub"),
    "user/repo@feature%2Fx": ("user/repo", "feature/x", None),
    "user/repo@feature/x": ("user/repo", "feature", "x"),
    "hf://user/repo": ("user/repo", None, None),
    "HF://user/repo": ("user/repo", None, None),
    "hf://models/user/repo@v1": ("user/repo", "v1", None),
    "hf://user/repo@abc123": ("user/repo", "abc123", None),
    "hf://user/repo/a/b": ("user/repo", None, "a/b"),
    "hf://user/repo@v1/checkpoint-10": ("user/repo", "v1", "checkpoint-10"),
    "https://huggingface.co/user/repo": ("user/repo", None, None),
    "https://huggingface.co/user/repo/?library=peft#x": ("user/repo", None, None),
    "huggingface.co/user/repo": ("user/repo", None, None),
    "https://hf.co/user/repo/tree/main": ("user/repo", "main", None),
    "https://huggingface.co/user/repo/tree/refs%2Fpr%2F1": ("user/repo", "refs/pr/1", None),
    "https://huggingface.co/user/repo/tree/refs/pr/1/a%20b": ("user/repo", "refs/pr/1", "a b"),
    "https://huggingface.co/u/r/blob/main/adapter_config.json": ("u/r", "main", None),
    "https://huggingface.co/u/r/resolve/v1/deep/x.safetensors": ("u/r", "v1", "deep"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.mark.parametrize("text", HUB)
def test_repositories(text: str) -> None:
    repo, revision, sub = HUB[text]
    assert parse(text) == Ref(text, repo=repo, revision=revision, subfolder=sub)


@pytest.mark.parametrize("text", [".", "..", "./x", "../x", "/x/y", "./user/repo", "C:\\x"])
def test_paths_by_their_look(text: str) -> None:
    assert parse(text) == Ref(text, path=Path(text))


@pytest.mark.parametrize("text", ["user/repo", "user/repo/sub", "user/repo@v1", "hf.co/u/r"])
def test_what_exists_is_a_path(text: str, tmp_path: Path) -> None:
    there = parse(text)
    assert there.path is None
    (tmp_path / text).mkdir(parents=True)
    assert parse(text).path == Path(text)
    assert parse(tmp_path) == Ref(str(tmp_path), path=tmp_path)
    assert parse(text, disk=False) == there


def test_a_name_that_may_have_meant_a_folder() -> None:
    bare = [text for text in HUB if parse(text).bare]
    assert bare == ["gpt2", "user/repo", "user/repo/", "user/re-po_1.5", "a/b/c", "a/b/c/d@e/"]


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("~/x").path == tmp_path / "x"


def test_links_to_the_configured_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    link = "http://127.0.0.1:8000/hub/user/repo/tree/main/sub"
    with pytest.raises(NotFound, match="no page of the Hub"):
        parse(link)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8000/hub/")
    assert parse(link) == Ref(link, repo="user/repo", revision="main", subfolder="sub")
    with pytest.raises(NotFound, match="no page of the Hub"):
        parse(link.replace("8000", "8001"))


URLS = {"s3://bucket/a/b": "s3://bucket/a/b", "S3://bucket/a/": "s3://bucket/a",
        "gs://bucket": "gs://bucket", "az://box/a b": "az://box/a b", "memory:///x": "memory:///x",
        "abfs://box@account.dfs.core/x": "abfs://box@account.dfs.core/x"}  # fmt: skip


@pytest.mark.parametrize("text", URLS)
def test_stores(text: str) -> None:
    assert parse(text) == Ref(text, url=URLS[text])


def test_a_file_address_is_a_path_too(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    for text in (f"file://{folder}", folder.as_uri()):
        assert parse(text) == Ref(text, path=folder, url=f"file://{folder}")


NONSENSE = ["", "a b", "a\nb", "\0", "./a\0b", "hf://", "hf://user", "hf://user/../x", "user/repo@",
            "@v1", "user/repo@a b", "https:x", "a..b/c", "user/repo@..", "user/repo@a..b",
            "user/../repo", "user//repo", "user/repo//sub", "user/repo/../x", "user/repo/./x",
            "user/repo@v1/../x", "user/repo@v1//x", "user/repo@%00", "user/repo@%2Fx", "a--b", "-x",
            "user/my-", "user/repo.git", "café/x", "~no-such-user/x", "s3://", "s3://b/../c",
            "s3://b//c", "hf://u/r/a\\b", "https://[", "https://hf.co/u/r/tree/main/%2e%2e",
            "s3://b/c\0", f"{'x' * 97}/y"]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_refused_on_one_line(text: str) -> None:
    with pytest.raises(NotFound, match="neither a folder nor a repository") as caught:
        parse(text)
    assert str(caught.value).isprintable()


ELSEWHERE = {"hf://datasets/user/repo": "is a dataset", "https://hf.co/spaces/u/r": "is a space",
             "https://hf.co/user": "and not a repository's", "zip://x": "no store",
             "https://hf.co/u/r/discussions/1": "and not a repository's",
             "https://example.org/u/r": "no page of the Hub", "nfs://x": "no store"}  # fmt: skip


@pytest.mark.parametrize("text", ELSEWHERE)
def test_what_lies_elsewhere_is_named(text: str) -> None:
    with pytest.raises(NotFound, match=ELSEWHERE[text]):
        parse(text)


@pytest.mark.parametrize("scheme", ["s3", "https", "hf", "nonsense"])
@pytest.mark.parametrize("rest", ["key:se/cret@b/x", ":secret@b", "key:secret@b:80/x@y"])
def test_a_password_is_not_said(scheme: str, rest: str) -> None:
    with pytest.raises(NotFound, match="a password in it") as caught:
        parse(f"{scheme}://{rest}")
    assert "cret" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_refused_in_words(text: str) -> None:
    try:
        ref = parse(text, disk=False)
    except NotFound as error:
        said = str(error)
        assert said.isprintable()
        return
    assert ref.repo or ref.url
    for name in (ref.subfolder or "x").split("/") + (ref.repo or "x").split("/"):
        assert name not in ("", ".", "..")
        assert "\\" not in name
    assert ref.url is None or ref.url.partition("://")[0] in (*STORES, "file")


_part = st.text("ab.-_@%: /", max_size=6)


@given(st.lists(_part, min_size=1, max_size=5).map("/".join), st.sampled_from(["", "models/"]))
@example("u/r@refs/pr/1/x", "")
@example("u/r@a%2Fb/c", "models/")
@example("u/r/a@b", "")
def test_hf_addresses_mean_what_the_hub_library_says(body: str, kind: str) -> None:
    """Whatever we take, it takes alike; we refuse more: `..`, odd revisions, empty names."""
    try:
        ref = parse(f"hf://{kind}{body}")
    except NotFound:
        return
    theirs = huggingface_hub.parse_hf_uri(f"hf://{kind}{body}")
    assert (theirs.type, theirs.id, theirs.revision) == ("model", ref.repo, ref.revision)
    assert theirs.path_in_repo == (ref.subfolder or "")


@pytest.mark.parametrize("text", [t for t in HUB if "hf.co/" in t or "huggingface.co/" in t])
def test_links_mean_what_the_hub_library_says(text: str) -> None:
    ref, theirs = parse(text), huggingface_hub.parse_hf_uri(text)
    assert (theirs.id, theirs.revision) == (ref.repo, ref.revision)
    assert theirs.path_in_repo.startswith(ref.subfolder or "")


@pytest.mark.parametrize("text", ["hf://", "hf://u", "hf://u/r@", "hf://u/a--b", "hf://u/r//x"])
def test_what_the_hub_library_refuses_is_refused(text: str) -> None:
    with pytest.raises(HfUriError):
        huggingface_hub.parse_hf_uri(text)
    with pytest.raises(NotFound):
        parse(text)


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
