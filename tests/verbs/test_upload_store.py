"""Uploads into stores: the same files as to the Hub, the config last, and nothing twice."""

import json
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import Unsupported
from tests.checks import tiny
from tests.cli import contents, run

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "mine")


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store/my-lora"
    return f"memory://{tmp_path.name}/my-lora"


def held(url: str) -> dict[str, bytes]:
    import fsspec

    files, root = fsspec.url_to_fs(url)
    found = files.find(root)
    return {name.rpartition("/")[2]: files.cat_file(name) for name in found}


def changes(report: at.Report) -> dict[str, str]:
    return {file["name"]: file["change"] for file in report.facts["files"]}


def test_a_store_gets_what_the_hub_would(url: str, mine: Path) -> None:
    plans: list[at.Report] = []
    counted: list[int] = []

    class Bar:
        def __init__(self, total: int) -> None:
            counted.append(-total)

        def __enter__(self) -> Any:
            return counted.append

        def __exit__(self, *_: object) -> None:
            return None

    report = at.upload(at.open(mine), url, announce=plans.append, progress=Bar)
    schema.check("report", json.loads(json.dumps(report.as_json())))
    there = held(url)
    assert there.keys() == {CONFIG, WEIGHTS, CARD, "adaptertools.upload.json"}
    assert there[WEIGHTS] == (mine / WEIGHTS).read_bytes()
    assert b"adaptertools" in there[CARD]
    assert changes(report) == dict.fromkeys([CONFIG, WEIGHTS, CARD], "new")
    assert plans[0].facts["dry_run"]
    assert plans[0].facts["files"] == report.facts["files"]
    assert sum(counted) == 0  # what was said to come has come
    assert at.open(url).rank == tiny.RANK


def test_the_same_again_writes_nothing(url: str, mine: Path) -> None:
    at.upload(mine, url)
    before = held(url)
    again = at.upload(mine, url)
    assert not again.facts["changed"]
    assert set(changes(again).values()) == {"same"}
    assert held(url) == before


def test_the_card_there_is_kept_and_others_go(url: str, mine: Path) -> None:
    at.upload(mine, url, include=["*.txt"])
    (mine / CARD).unlink()
    (mine / "LICENSE").write_text("free")
    old = held(url)[CARD]
    (mine / "notes.txt").write_text("x")
    at.upload(mine, url, include=["*.txt"])
    assert held(url)[CARD] == old
    assert held(url).keys() >= {"LICENSE", "notes.txt"}
    report = at.upload(mine, url, delete_others=True)
    assert report.facts["deleted"] == ["notes.txt"]
    assert held(url).keys() == {CONFIG, WEIGHTS, CARD, "LICENSE", "adaptertools.upload.json"}


@pytest.mark.parametrize("how", [{"private": True}, {"create_pr": True}, {"revision": "dev"}])
def test_a_store_is_no_hub(url: str, mine: Path, how: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="store"):
        at.upload(mine, url, **how)
    assert not any(True for _ in contents(mine.parent / "store")) if "file" in url else True


def test_a_dry_run_on_the_command_line(mine: Path, tmp_path: Path) -> None:
    (mine / "optimizer.pt").write_bytes(b"")
    url = f"file://{tmp_path}/store/my-lora"
    done = run("upload", url, mine, "--dry-run")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{url}, a new folder: adapter of {tiny.BASE}, 2.6")
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["new", CARD], ["new", CONFIG], ["new", WEIGHTS]
    ]  # fmt: skip
    assert "  left out  optimizer.pt: the training wrote it for itself" in lines
    assert not (tmp_path / "store").exists()
    done = run("upload", url, mine)
    assert (done.code, done.out.count("\n")) == (0, 1)
    assert done.err.splitlines() == lines
    assert "read back and found right" in done.out
    done = run("upload", url, mine, "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert "holds this adapter" in run("upload", url, mine).out
