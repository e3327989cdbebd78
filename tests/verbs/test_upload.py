"""Uploads of adapters to the loopback hub, by the command line: what arrives there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptertools import schema
from tests.checks import tiny
from tests.cli import contents
from tests.hub_server import Hub
from tests.hub_server_clients import Done, fan
from tests.verbs.test_convert import expected
from tests.verbs.upload_folders import (
    CARD,
    CONFIG,
    WEIGHTS,
    bare,
    broken,
    littered,
    local,
    plain,
    torchy,
)  # fmt: skip

KEPT = "---\nlicense: mit\n---\nWords that were written on the Hub.\n"


# name -> folder, options; the name is the repository's too.
GOOD: Mapping[str, tuple[Callable[[Path], None], list[str]]] = {
    "plain": (plain, []),
    "bare": (bare, []),
    "littered": (littered, ["--include", "notes.txt"]),
    "named": (local, ["--base", "org/base"]),
    "torchy": (torchy, []),
    "private": (plain, ["--private", "--commit-message", "Mine alone"]),
    "dry": (plain, ["--dry-run"]),
    "pull": (plain, ["--create-pr"]),
    "branch": (plain, ["--revision", "dev/two"]),
    "fresh-branch": (plain, ["--revision", "dev"]),
    "others": (plain, ["--delete-others"]),
    "carded": (bare, []),
    "unchecked": (broken, ["--no-validate"]),
    "lost": (plain, ["--create-pr"]),
}
THERE = ("pull", "branch", "others", "carded", "lost")


@pytest.fixture(scope="module")
def uploads(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Hub, Path, dict[str, Done]]]:
    home = tmp_path_factory.mktemp("uploads")
    jobs: dict[str, list[object]] = {}
    with Hub() as hub:
        hub.add(tiny.BASE, {CARD: b"---\nlicense: llama3\nlicense_link: https://x.example\n---\n"})
        old = {CONFIG: b"{}", "old.safetensors": b"0" * 9, CARD: KEPT.encode()}
        for name in THERE:
            hub.add(f"user/{name}", {".gitattributes": b"", **old})
        hub.fault("lost", path="*/user/lost/commit/*", times=1)
        for name, (make, options) in GOOD.items():
            make(home / name)
            jobs[name] = ["upload", f"user/{name}", home / name, *options, "--json"]
        before = {name: contents(home / name) for name in jobs}
        yield hub, home, fan(hub, home, jobs)
        assert hub.leaks == []
        # Uploading leaves the folder as it was.
        assert {name: contents(home / name) for name in jobs} == before


Uploads = tuple[Hub, Path, dict[str, Done]]


def report(uploads: Uploads, name: str) -> dict[str, Any]:
    done = uploads[2][name]
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    schema.check("report", found)
    return found


def meta(data: bytes) -> dict[str, Any]:
    held: dict[str, Any] = yaml.safe_load(data.decode().split("---")[1])
    return held


@pytest.mark.parametrize("name", [name for name in GOOD if name not in ("dry", "lost")])
def test_what_arrives(uploads: Uploads, name: str) -> None:
    hub, home, _ = uploads
    found, repo = report(uploads, name)["facts"], hub.repo(f"user/{name}")
    held = repo.all(found["commit"])
    assert held.keys() >= {CONFIG, WEIGHTS, CARD}
    assert {file["name"] for file in found["files"]} <= held.keys()
    assert len(repo.commits[found["commit"]].parents) == 1
    card = meta(held[CARD])
    config = json.loads(held[CONFIG])
    assert card["base_model"] == config["base_model_name_or_path"]
    assert (card["base_model_relation"], card["library_name"]) == ("adapter", "peft")
    assert {"lora", "adaptertools"} <= set(card["tags"])
    assert "| rank | 2 |" in held[CARD].decode()
    if (home / name / WEIGHTS).is_file():
        assert held[WEIGHTS] == (home / name / WEIGHTS).read_bytes()


def test_the_users_card_is_kept(uploads: Uploads) -> None:
    hub, home, _ = uploads
    mine = (home / "plain" / CARD).read_text()
    held = hub.repo("user/plain").data(CARD).decode()
    front, body = mine.removeprefix("---\n").split("---\n")
    assert held.startswith(f"---\n{front}- adaptertools\n---\n{body}")


def test_the_bases_licence_is_taken(uploads: Uploads) -> None:
    held = meta(uploads[0].repo("user/bare").data(CARD))
    assert (held["license"], held["license_link"]) == ("llama3", "https://x.example")
    assert "UPL003" in [each["code"] for each in report(uploads, "bare")["findings"]]


def test_a_card_of_the_hub_is_mended(uploads: Uploads) -> None:
    held = uploads[0].repo("user/carded").data(CARD).decode()
    assert "Words that were written on the Hub." in held
    assert meta(held.encode())["license"] == "mit"


def test_litter_stays_at_home(uploads: Uploads) -> None:
    repo, found = uploads[0].repo("user/littered"), report(uploads, "littered")["facts"]
    own = {".gitattributes", CONFIG, WEIGHTS, CARD, "LICENSE", "notes.txt"}
    assert repo.all().keys() == own
    left = {each["name"]: each["why"] for each in found["left_out"]}
    assert left.keys() == {"optimizer.pt", "checkpoint-6/adapter_config.json", ".env", "x.py"}
    assert all(left.values())


def test_the_base_that_was_given(uploads: Uploads) -> None:
    held = uploads[0].repo("user/named").all()
    assert json.loads(held[CONFIG])["base_model_name_or_path"] == "org/base"
    assert not [name for name, data in held.items() if b"/data/me" in data]
    found = report(uploads, "named")
    assert "UPL001" in [each["code"] for each in found["findings"]]


def test_a_pickle_becomes_safetensors(uploads: Uploads, tmp_path: Path) -> None:
    hub, home, _ = uploads
    held = hub.repo("user/torchy").all()
    assert held.keys() == {".gitattributes", CONFIG, CARD, WEIGHTS}
    assert held[WEIGHTS] == expected(home / "torchy" / "adapter_model.bin", tmp_path)


def test_where_it_goes(uploads: Uploads) -> None:
    hub = uploads[0]
    assert hub.repo("user/private").private
    assert hub.repo("user/private").head.title == "Mine alone"
    assert not hub.repo("user/plain").private
    assert ("models", "user/dry") not in hub.repos
    assert report(uploads, "dry")["facts"]["dry_run"]
    pull, repo = report(uploads, "pull")["facts"], hub.repo("user/pull")
    assert pull["pr_url"].endswith("/user/pull/discussions/1")
    assert repo.refs["refs/pr/1"] == pull["commit"] != repo.head.id
    assert list(repo.commits[pull["commit"]].parents) == [repo.head.id]
    for name, branch in (("branch", "dev/two"), ("fresh-branch", "dev")):
        repo = hub.repo(f"user/{name}")
        assert repo.refs[f"refs/heads/{branch}"] == report(uploads, name)["facts"]["commit"]
        assert WEIGHTS not in repo.head.files


def test_other_files(uploads: Uploads) -> None:
    hub = uploads[0]
    assert hub.repo("user/others").all().keys() == {".gitattributes", CONFIG, WEIGHTS, CARD}
    assert report(uploads, "others")["facts"]["deleted"] == ["old.safetensors"]
    assert "old.safetensors" in hub.repo("user/carded").all()
    found = report(uploads, "carded")["findings"]
    assert ["UPL008" in each["code"] for each in found if "old.safetensors" in each["text"]]


def test_a_pull_request_is_asked_for_once(uploads: Uploads) -> None:
    hub, _, done = uploads
    assert done["lost"].code == 1
    assert "/user/lost/discussions" in done["lost"].err
    assert len(hub.repo("user/lost").pulls) == 1


TWICE = """
import sys
from pathlib import Path
import adaptertools as at
one = at.upload(sys.argv[1], "user/repo", create_pr=True)
Path(sys.argv[1], "LICENSE").write_text("free")
two = at.upload(sys.argv[1], "user/repo@refs/pr/1", commit_message="And a licence")
three = at.upload(sys.argv[1], "user/repo", revision="dev")
assert at.upload(sys.argv[1], "user/repo", revision="dev").facts["changed"] is False
print(one.facts["pr_url"], two.facts["pr_url"], three.facts["commit"])
"""


def test_a_pull_request_is_continued(tmp_path: Path) -> None:
    mine = tiny.adapter(tmp_path / "mine")
    with Hub() as hub:
        repo = hub.add("user/repo", {"old.txt": b""})
        done = hub.call(tmp_path, TWICE, str(mine))
        assert done.returncode == 0, done.stderr
    first, second, commit = done.stdout.split()
    assert (first, second) == (f"{hub.endpoint}/user/repo/discussions/1", "None")
    assert repo.head.files.keys() == {"old.txt"}
    assert repo.all("refs/pr/1").keys() == {"old.txt", CONFIG, WEIGHTS, CARD, "LICENSE"}
    assert repo.commits[repo.refs["refs/pr/1"]].title == "And a licence"
    assert repo.refs["refs/heads/dev"] == commit
    assert list(repo.commits[commit].parents) == [repo.head.id]


def test_the_same_again_makes_no_commit(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "mine")
    with Hub() as hub:
        jobs: dict[str, list[object]] = {"one": ["upload", "user/repo", tmp_path / "mine"]}
        assert fan(hub, tmp_path, jobs)["one"].code == 0
        repo, count = hub.repo("user/repo"), len(hub.requests)
        shutil.rmtree(tmp_path / "fan")
        done = fan(hub, tmp_path, {"two": [*jobs["one"], "--delete-others"]})["two"]
        assert (done.code, done.err) == (0, "")
        assert "already" in done.out
        assert len(repo.commits) == 2
        asked = [f"{one.method} {one.path}" for one in hub.requests[count:]]
        assert [one for one in asked if not one.startswith("GET ")] == []
