"""`adaptertools download`: what a person sees, what a program reads, what goes where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from adaptertools import schema
from adaptertools.cli import app
from tests.hub.test_fetch import FILES, NEEDED, lying, snapshot
from tests.hub_server import Hub


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


def test_words(hub: Hub, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "download", "user/repo")
    folder = snapshot(tmp_path, hub)
    assert done.stdout.splitlines() == [
        f"user/repo at {folder.name[:12]}: 3 files, 102 kB, verified",
        "  README.md                       7 B  fetched",
        "  adapter_config.json            30 B  fetched",
        "  adapter_model.safetensors    102 kB  fetched",
        "  left out  adapter_model.bin: the weights once more, pickled",
        "  left out  checkpoint-6/adapter_config.json: part of the adapter in checkpoint-6",
        "  left out  checkpoint-6/adapter_model.safetensors: part of the adapter in checkpoint-6",
        "  left out  optimizer.pt: state of the training run",
        f"  folder    {folder}",
    ]
    assert done.stderr == ""


def test_quiet_is_the_folder_alone(hub: Hub, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "download", "user/repo", "-q")
    assert (done.stdout, done.stderr) == (f"{snapshot(tmp_path, hub)}\n", "")


def test_json(hub: Hub, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "download", "user/repo", "--json")
    report = json.loads(done.stdout)
    schema.check("report", report)
    assert [file["name"] for file in report["facts"]["files"]] == sorted(NEEDED)
    assert done.stderr == ""


@pytest.mark.parametrize("where", [(), ("--local-dir", "copy")], ids=["cache", "folder"])
def test_dry_run_fetches_nothing(where: tuple[str, ...], hub: Hub, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "download", "user/repo", "--dry-run", "--json", *where)
    facts = json.loads(done.stdout)["facts"]
    schema.check("report", json.loads(done.stdout))
    assert {file["name"]: (file["size"], file["how"]) for file in facts["files"]} == {
        name: (len(FILES[name]), "to fetch") for name in NEEDED
    }
    assert {row["name"] for row in facts["left_out"]} == set(FILES) - set(NEEDED)
    assert len(hub.requests) == 1
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "hf" / "hub").exists()
    assert hub.run(tmp_path, "download", "user/repo", *where).returncode == 0
    done = hub.run(tmp_path, "download", "user/repo", "--dry-run", *where)
    assert done.stdout.count("  there\n" if where else "  cached\n") == len(NEEDED)


def test_include_and_exclude(hub: Hub, tmp_path: Path) -> None:
    many = ("--include", "*.pt", "--include", "check*", "--exclude", "*.json")
    done = hub.run(tmp_path, "download", "user/repo", *many)
    assert done.returncode == 0, done.stderr
    names = sorted(lying(snapshot(tmp_path, hub)))
    assert names == ["checkpoint-6/adapter_model.safetensors", "optimizer.pt"]
    assert "warning   DWN001 optimizer.pt: Is a pickle" in done.stdout


def test_revisions(hub: Hub, tmp_path: Path) -> None:
    old = hub.repo("user/repo").head.id
    hub.repo("user/repo").refs["refs/tags/v1"] = old
    new = hub.update("user/repo", {"README.md": b"# new\n"}).id
    said = {}
    for revision in ("v1", old, "main", None):
        more = ("--revision", revision) if revision else ()
        done = hub.run(tmp_path, "download", "user/repo", "-q", *more)
        said[revision] = Path(done.stdout.strip()).name
    assert said == {"v1": old, old: old, "main": new, None: new}
    done = hub.run(tmp_path, "download", "user/repo", "--revision", "v2")
    assert done.returncode == 1
    assert "has no revision v2. It has v1" in done.stderr


def seen(hub: Hub, folder: Path, *command: str, **env: str) -> str:
    """Give what a command writes on stderr where that is a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "adaptertools", *command], cwd=folder, stderr=theirs,
        stdout=subprocess.DEVNULL, env=hub.env(folder) | {"TERM": "xterm", **env},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with suppress(OSError):  # what Linux says when the other side is gone
        while more := os.read(ours, 4096):
            said += more
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


def test_a_bar_that_knows_the_total(hub: Hub, tmp_path: Path) -> None:
    total = sum(len(FILES[name]) for name in NEEDED) / 1000
    said = seen(hub, tmp_path, "download", "user/repo")
    assert "downloading" in said
    assert f"0.0/{total:.1f} kB" in said
    assert f"{total:.1f}/{total:.1f} kB" in said
    assert "adapter_model" not in said  # huggingface_hub's own bars
    assert seen(hub, tmp_path, "download", "user/repo") == ""  # nothing is to come
    again = ("download", "user/repo", "--local-dir", "copy", "-q")
    (tmp_path / "hf" / "hub").rename(tmp_path / "gone")
    assert seen(hub, tmp_path, *again) == ""
    unwanted = ("download", "user/repo", "--local-dir", "again")
    assert seen(hub, tmp_path, *unwanted, HF_HUB_DISABLE_PROGRESS_BARS="1") == ""


BAD = {
    "no repository": ("user/repp", "Near it: user/repo"),
    "no folder": ("user/repo/checkpoint-7", "has no folder checkpoint-7. It has checkpoint-6"),
    "no adapter": ("user/base", "holds no adapter, but a whole model (model.safetensors)"),
    "adapters": ("user/many", "2 adapters in folders of their own: a, b. Give user/many/a."),
    "dataset": ("user/data", "is a dataset on the Hub, and no model or adapter"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, hub: Hub, tmp_path: Path) -> None:
    hub.add("user/base", {"config.json": b"{}", "model.safetensors": b"\0"})
    hub.add("user/many", {f"{name}/adapter_config.json": b"{}" for name in "ab"})
    hub.add("user/data", {"x.csv": b"1"}, kind="dataset")
    name, said = BAD[case]
    done = hub.run(tmp_path, "download", name)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_path_is_no_repository(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["download", f"{tmp_path}/x"])
    assert done.exit_code == 1
    assert "is a path" in str(done.exception)
