"""Publishing: one commit onto what was seen; faults at every request are in test_upload_faults."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import TOKEN, Hub
from tests.hub_server_adapter import noise

PUBLISH = """
import json, sys
from pathlib import Path
from adaptertools.hub import commit, push
commit._BIG = 50_000
files = {name: Path(sys.argv[1], name) for name in json.loads(sys.argv[2])}
files["note.txt"] = b"from memory"
parent = push.look("user/repo").repo
seen = []
made = push.publish("user/repo", files, delete=json.loads(sys.argv[3]), message="Mine",
                    parent=parent.commit if parent else None, progress=seen.append)
print(json.dumps({"commit": made.commit, "url": made.url, "seen": sum(seen), "steps": len(seen)}))
"""
FILES = {"one.safetensors": noise(90_000, "1"), "two.safetensors": noise(120_000, "2"),
         "small.safetensors": noise(900, "3"), "config.json": b"{}"}  # fmt: skip
TOTAL = sum(map(len, FILES.values())) + len("from memory")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "files"
    place.mkdir()
    for name, data in FILES.items():
        (place / name).write_bytes(data)
    return place


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as one:
        yield one
        assert one.leaks == []


def publish(hub: Hub, folder: Path, *delete: str, code: int = 0, **env: str) -> str:
    """Publish all files; give what the client says."""
    names, gone = json.dumps([*FILES]), json.dumps(delete)
    done = hub.call(folder.parent, PUBLISH, str(folder), names, gone, **env)
    assert done.returncode == code, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize("part_size", [0, 40_000])
def test_one_commit(hub: Hub, folder: Path, part_size: int) -> None:
    hub.part_size = part_size
    old = hub.add("user/repo", {"old.txt": b"1", "kept.txt": b"2"}).head
    hub.fault("503", method="PUT", path="/cdn/upload/*", times=1)
    told = json.loads(publish(hub, folder, "old.txt"))
    repo = hub.repo("user/repo")
    assert repo.all() == {**FILES, "note.txt": b"from memory", "kept.txt": b"2"}
    assert (repo.head.id, repo.head.parents, repo.head.title) == (told["commit"], (old.id,), "Mine")
    assert told["url"] == f"{hub.endpoint}/user/repo/commit/{repo.head.id}"
    # Each byte counts once, also where it was sent twice.
    assert told["seen"] == TOTAL
    assert told["steps"] > len(FILES)


def test_a_repository_is_made(hub: Hub, folder: Path) -> None:
    publish(hub, folder)
    assert hub.repo("user/repo").all().keys() == {*FILES, "note.txt", ".gitattributes"}
    posts = [one.path for one in hub.requests if one.method == "POST" and "/commit/" in one.path]
    assert len(posts) == 1


def test_without_xet_where_it_is_dead(hub: Hub, folder: Path) -> None:
    pytest.importorskip("hf_xet", reason="hf_xet is not installed")
    hub.add("user/repo", {})
    publish(hub, folder, HF_HUB_DISABLE_XET="0")
    asked = [one.path for one in hub.requests if "xet-write-token" in one.path]
    assert asked
    assert hub.repo("user/repo").all() == {**FILES, "note.txt": b"from memory"}


def test_a_repository_that_somebody_else_made(hub: Hub, folder: Path) -> None:
    def late(request: object) -> None:
        if getattr(request, "path", "") == "/api/repos/create" and len(hub.repos) == 0:
            hub.add("user/repo", {"theirs.txt": b""})

    hub.watch = late
    assert "somebody else has made it" in publish(hub, folder, code=1)
    assert hub.repo("user/repo").all() == {"theirs.txt": b""}


def test_a_commit_that_came_first(hub: Hub, folder: Path) -> None:
    hub.add("user/repo", {"a": b"1"})

    def early(request: object) -> None:
        if "/preupload/" in getattr(request, "path", "") and len(hub.repo("user/repo").commits) < 2:
            hub.update("user/repo", {"a": b"2"})

    hub.watch = early
    assert "changed by somebody else" in publish(hub, folder, code=1)
    assert hub.repo("user/repo").all() == {"a": b"2"}
    assert not [one for one in hub.requests if one.method == "POST" and "/commit/" in one.path]


def test_what_is_read_back_is_compared(hub: Hub, folder: Path) -> None:
    hub.add("user/repo", {})
    hub.mangle = lambda name, data: b"{ }" if name == "config.json" else data
    told = publish(hub, folder, code=1)
    assert "config.json: it has 3 bytes, 2 were sent" in told
    assert "The commit was made" in told
