"""Local copies: whole or not there, never over what somebody edited, and checkable later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import NotFound, Unsupported
from adaptertools.hub.receipt import RECEIPT
from tests.hub.test_fetch import CONFIG, FILES, NEEDED, WEIGHTS, download, lying
from tests.hub_server import TOKEN, Hub

COPY = {name: FILES[name] for name in NEEDED}


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(served: Hub) -> Hub:
    served.heal()
    served.add("user/repo", FILES)
    served.requests.clear()
    return served


@pytest.fixture
def copy(hub: Hub, tmp_path: Path) -> Path:
    """Give a local copy, downloaded."""
    done = hub.run(tmp_path, "download", "user/repo", "--local-dir", "copy")
    assert done.returncode == 0, done.stderr
    return tmp_path / "copy"


def kept(folder: Path) -> dict[str, bytes]:
    """Give what lies in a local copy, but for the receipt."""
    return {name: data for name, data in lying(folder).items() if name != RECEIPT}


def test_a_copy_has_a_receipt_and_nothing_more(hub: Hub, copy: Path) -> None:
    assert kept(copy) == COPY
    receipt = json.loads((copy / RECEIPT).read_text("utf-8"))
    schema.check("download", receipt)
    assert receipt["source"] == {
        "ref": "user/repo", "repo": "user/repo", "commit": hub.repo("user/repo").head.id,
    }  # fmt: skip
    assert {file["name"]: file["sha256"] for file in receipt["files"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in COPY.items()
    }
    assert TOKEN not in json.dumps(receipt)


def test_what_is_there_is_not_fetched_again(hub: Hub, copy: Path) -> None:
    hub.requests.clear()
    done = hub.run(copy.parent, "download", "user/repo", "--local-dir", "copy", "--json")
    report = json.loads(done.stdout)
    schema.check("report", report)
    assert {file["how"] for file in report["facts"]["files"]} == {"there"}
    assert report["facts"]["fetched"] == 0
    assert len(hub.requests) == 1


def test_a_subfolder_becomes_the_folder(hub: Hub, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "download", "user/repo/checkpoint-6", "--local-dir", "six")
    assert done.returncode == 0, done.stderr
    assert kept(tmp_path / "six") == {
        "adapter_config.json": CONFIG,
        "adapter_model.safetensors": b"\0six",
    }
    assert at.verify(tmp_path / "six").facts["source"]["subfolder"] == "checkpoint-6"


def test_edited_files_are_not_overwritten(hub: Hub, copy: Path) -> None:
    (copy / "README.md").write_bytes(b"# mine\n")
    hub.update("user/repo", {"README.md": b"# theirs\n", "adapter_config.json": CONFIG + b" "})
    before = lying(copy)
    again = ["download", "user/repo", "--local-dir", "copy"]
    done = hub.run(copy.parent, *again)
    assert done.returncode == 1
    assert done.stderr.startswith("error: copy: README.md is there, and not as it was downloaded.")
    assert lying(copy) == before
    assert hub.run(copy.parent, *again, "--force").returncode == 0
    assert kept(copy) == {**COPY, "README.md": b"# theirs\n", "adapter_config.json": CONFIG + b" "}
    assert at.verify(copy).ok


def test_a_newer_commit_takes_the_place_of_the_older(hub: Hub, copy: Path) -> None:
    (copy / "note.txt").write_text("mine")
    hub.update("user/repo", {"adapter_model.safetensors": None, "README.md": b"# new\n"})
    done = hub.run(copy.parent, "download", "user/repo", "--local-dir", "copy")
    assert done.returncode == 0, done.stderr
    assert "DWN001" in done.stdout
    # The old weights would be loaded instead of the new ones.
    assert kept(copy) == {
        "adapter_config.json": CONFIG, "adapter_model.bin": FILES["adapter_model.bin"],
        "README.md": b"# new\n", "note.txt": b"mine",
    }  # fmt: skip


def test_two_adapters_are_not_mixed(hub: Hub, copy: Path) -> None:
    hub.add("user/two", {"adapter_config.json": CONFIG, "adapter_model.safetensors": b"\0two"})
    done = hub.run(copy.parent, "download", "user/two", "--local-dir", "copy")
    assert done.returncode == 1
    assert "a mixture with user/two" in done.stderr
    assert kept(copy) == COPY


def test_damage_on_the_way_leaves_the_old_copy(hub: Hub, copy: Path) -> None:
    new = {"adapter_model.safetensors": WEIGHTS[::-1], "README.md": b"# new\n"}
    hub.update("user/repo", dict(new))
    hub.fault("flip", "adapter_model.safetensors")
    done = hub.run(copy.parent, "download", "user/repo", "--local-dir", "copy")
    assert done.returncode == 1
    assert kept(copy) == COPY
    assert at.verify(copy).ok
    hub.heal()
    hub.fault("flip", "adapter_model.safetensors", times=1)
    done = hub.run(copy.parent, "download", "user/repo", "--local-dir", "copy")
    assert "DWN004" in done.stdout
    assert kept(copy) == COPY | new


def test_links_that_lead_out_of_the_folder(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "checkpoint-6").symlink_to("../outside")
    again = ["download", "user/repo", "--include", "*.json", "--local-dir", "copy"]
    done = hub.run(tmp_path, *again)
    assert done.returncode == 1
    assert "is a link that leaves copy" in done.stderr
    assert not lying(tmp_path / "outside")


def test_names_that_are_taken(hub: Hub, tmp_path: Path) -> None:
    hub.update("user/repo", {RECEIPT: b"{}", ".adaptertools.partial/x.json": b"{}"})
    done = hub.run(tmp_path, "download", "user/repo", "--include", "*.json", "--local-dir", "copy")
    assert done.returncode == 0, done.stderr
    assert sorted(kept(tmp_path / "copy")) == [
        "adapter_config.json", "checkpoint-6/adapter_config.json"
    ]  # fmt: skip
    assert at.verify(tmp_path / "copy").ok


def test_offline_from_the_cache_into_a_folder(hub: Hub, tmp_path: Path) -> None:
    download(hub, tmp_path)
    hub.requests.clear()
    again = ["download", "user/repo", "--local-dir", "copy"]
    assert hub.run(tmp_path, *again, HF_HUB_OFFLINE="1").returncode == 0
    assert kept(tmp_path / "copy") == COPY
    assert hub.requests == []


def test_a_store_without_digests_is_told_apart(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in (*NEEDED, "optimizer.pt"):
        (tmp_path / "far" / name).write_bytes(FILES[name])
    done = hub.run(tmp_path, "download", f"file://{tmp_path}/far", "--local-dir", "copy", "--json")
    report = json.loads(done.stdout)
    schema.check("report", report)
    assert [finding["code"] for finding in report["findings"]] == ["DWN003"]
    assert not any(file["verified"] for file in report["facts"]["files"])
    assert kept(tmp_path / "copy") == COPY
    assert at.verify(tmp_path / "copy").ok
    assert hub.requests == []


def test_a_moved_repository_is_followed(hub: Hub, tmp_path: Path) -> None:
    hub.move("user/repo", "user/moved")
    assert download(hub, tmp_path)["repo"] == "user/moved"


def test_what_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is a path"):
        at.download(f"{tmp_path}/x")
    with pytest.raises(Unsupported, match="names revision v1, and --revision is v2"):
        at.download("user/repo@v1", revision="v2")
    with pytest.raises(Unsupported, match="a store has no revisions"):
        at.download("memory://x", revision="v2")


def test_a_file_where_a_folder_was_expected(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("x")
    done = hub.run(tmp_path, "download", "user/repo", "--local-dir", "copy")
    assert done.stderr == "error: copy is a file. Give --local-dir a folder.\n"
