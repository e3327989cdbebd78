"""Which adapters a path means: trees are walked, links and hidden folders are not."""

import os
from pathlib import Path

import pytest

from adaptertools.cli._find import CONFIG, find
from adaptertools.errors import NotFound


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text("{}", "utf-8")
    return folder


def never(error: OSError) -> None:
    raise error


def found(*paths: Path | str) -> list[Path | str]:
    return list(find(map(str, paths), never))


def test_a_folder(tmp_path: Path) -> None:
    assert found(adapter(tmp_path / "a")) == [tmp_path / "a"]


def test_a_file_means_its_folder_alone(tmp_path: Path) -> None:
    one = adapter(tmp_path / "a")
    adapter(one / "checkpoint-10")
    (one / "README.md").write_text("", "utf-8")
    assert found(one / CONFIG, one / "README.md") == [one]


def test_a_tree_in_order_each_once(tmp_path: Path) -> None:
    names = ["b", "a/checkpoint-2", "a/checkpoint-10", "a", "c/d/e"]
    for name in names:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / CONFIG).write_text("{}", "utf-8")
    expected = [
        tmp_path / name for name in ("a", "a/checkpoint-10", "a/checkpoint-2", "b", "c/d/e")
    ]
    assert found(tmp_path) == expected
    assert found(tmp_path / "b", tmp_path, tmp_path / "b" / ".") == [
        expected[3], *expected[:3], expected[4],
    ]  # fmt: skip


def test_what_is_hidden_or_of_others_is_passed_by(tmp_path: Path) -> None:
    for name in (".git/a", ".cache/b", "node_modules/c", "x/node_modules/d", "x/.hidden"):
        adapter(tmp_path / name)
    with pytest.raises(NotFound, match="nothing to validate"):
        found(tmp_path)
    assert found(tmp_path / ".cache") == [tmp_path / ".cache" / "b"], "asked for by name"


def test_weights_that_miss_their_config_are_an_adapter(tmp_path: Path) -> None:
    good = adapter(tmp_path / "a")
    for name in ("adapter_model.safetensors", "adapter_model.bin", "model.safetensors"):
        (tmp_path / "b" / name).mkdir(parents=True)
        (tmp_path / "b" / name / name).write_bytes(b"")
    lost = [tmp_path / "b" / name for name in ("adapter_model.bin", "adapter_model.safetensors")]
    assert found(tmp_path) == [good, *lost]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    outside = adapter(tmp_path / "outside")
    inside = adapter(tmp_path / "tree" / "a")
    (tmp_path / "tree" / "link").symlink_to(outside, target_is_directory=True)
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree", target_is_directory=True)
    assert found(tmp_path / "tree") == [inside]


def test_a_link_for_a_config_is_for_validate_to_judge(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / CONFIG).symlink_to("/nowhere")
    assert found(tmp_path) == [tmp_path / "a"]


def test_deep_trees_end(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(300):
        folder = folder / "d"
    adapter(folder)
    assert found(tmp_path) == [folder]


def test_repositories_are_left_as_they_are() -> None:
    assert found("user/repo", "hf://user/repo@main/sub", "user/repo") == [
        "user/repo", "hf://user/repo@main/sub",
    ]  # fmt: skip


def test_what_is_missing_is_passed_on_to_be_refused(tmp_path: Path) -> None:
    assert found(tmp_path / "none") == [tmp_path / "none"]
    with pytest.raises(NotFound, match="neither a folder nor a repository"):
        found("no such thing")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_folders_that_may_not_be_read_are_told(tmp_path: Path) -> None:
    shut = adapter(tmp_path / "shut")
    good = adapter(tmp_path / "x")
    shut.chmod(0)
    failed: list[OSError] = []
    try:
        assert list(find([str(tmp_path)], failed.append)) == [good]
    finally:
        shut.chmod(0o700)
    assert [error.filename for error in failed] == [str(shut)]


def test_folders_that_go_away_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(tmp_path / "a")
    adapter(tmp_path / "b")
    real = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "a":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    failed: list[OSError] = []
    assert list(find([str(tmp_path)], failed.append)) == [tmp_path / "b"]
    assert [error.filename for error in failed] == [str(tmp_path / "a")]
