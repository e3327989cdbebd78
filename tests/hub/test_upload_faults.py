"""Whatever happens during an upload, the repository shows the old commit or the whole new one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.hub.test_faults import assert_one_sentence
from tests.hub_server import TOKEN, Hub, Request
from tests.hub_server_adapter import adapter
from tests.hub_server_clients import Done, Killer, fan
from tests.hub_server_git import Repository

OLD = adapter(layers=1, width=64, seed="old") | {"notes.txt": b"kept"}
ONCE = {"times": 1}
# What goes wrong at one request, or from it on; the last number is how many requests later.
WAYS: dict[str, list[tuple[str, dict[str, Any], int]]] = {
    "busy": [("503", {"retry_after": 1, **ONCE}, 0)],
    "down": [("500", {}, 0)],
    "reset": [("reset", ONCE, 0)],
    "cut": [("drop", {}, 0)],
    "lost": [("lost", ONCE, 0)],
    "lost-down": [("lost", ONCE, 0), ("drop", {}, 1)],
    "done-502": [("502", {"done": True, **ONCE}, 0)],
    "html": [("html", ONCE, 0)],
    "kill": [],
}
RIDDEN_OUT = ("busy", "reset", "lost", "done-502")


def local(folder: Path, name: str) -> Path:
    """Write an adapter that no other upload has."""
    place = folder / "local" / name
    place.mkdir(parents=True)
    for path, data in adapter(layers=1, width=256, seed=name).items():
        place.joinpath(path).write_bytes(data)
    return place


def upload(folder: Path, name: str, repo: str) -> list[object]:
    return ["upload", repo, local(folder, name), "-q"]


def steps(hub: Hub, folder: Path) -> list[str]:
    """Upload without any fault; give the requests that it takes."""
    hub.add("user/plain", OLD)
    done = fan(hub, folder, {"plain": upload(folder, "plain", "user/plain")})["plain"]
    assert done.code == 0, done.err
    mine = [one for one in hub.requests if "plain" in (one.client, *one.path.split("/"))]
    return [f"{one.method} {one.path}" for one in mine]


class Outcome(NamedTuple):
    done: Done
    repo: Repository
    old: str
    new: dict[str, bytes]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Outcome]]:
    """Upload once for every request and every way in which it can fail."""
    home = tmp_path_factory.mktemp("uploads")
    with Hub() as hub:
        plain = steps(hub, home)
        jobs, kills, old = {}, {}, {}
        for number in range(len(plain)):
            for way, faults in WAYS.items():
                name = f"{way}-at-{number}"
                old[name] = hub.add(f"user/{name}", OLD).head.id
                jobs[name] = upload(home, name, f"user/{name}")
                if way == "kill":
                    kills[name] = number
                for fault, limits, later in faults:
                    hub.fault(fault, client=name, method="*", skip=number + later, **limits)
        hub.watch = Killer(home, kills)
        done = fan(hub, home, jobs, at_once=10)
        assert hub.leaks == []
        yield {
            name: Outcome(one, hub.repo(f"user/{name}"), old[name], files(home, name))
            for name, one in done.items()
        }
    for one in done.values():
        assert TOKEN not in one.out + one.err
    secrets = [p for p in home.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert not secrets


def files(home: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "local" / name).iterdir()}


@pytest.mark.parametrize("way", WAYS)
def test_the_old_or_the_whole_new(outcomes: Mapping[str, Outcome], way: str) -> None:
    mine = {name: one for name, one in outcomes.items() if name.startswith(f"{way}-at-")}
    assert len(mine) > 5
    for name, (done, repo, old, new) in mine.items():
        landed = repo.head.id != old
        if landed:
            assert list(repo.head.parents) == [old], name
            held = repo.all()
            assert held.keys() == OLD.keys(), name
            assert {k: v for k, v in held.items() if k != "README.md"} == {
                **{k: v for k, v in new.items() if k != "README.md"}, "notes.txt": b"kept"
            }, name  # fmt: skip
        else:
            assert repo.all() == OLD, name
        if done.code == 0:
            assert landed, name
        elif way == "kill":
            assert done.code in (-9, 1), (name, done)
        else:
            assert done.code == 1, (name, done)
            assert_one_sentence(done.err.splitlines()[0])
            assert landed <= ("The commit was made" in done.err or "not known" in done.err), done
        if way in RIDDEN_OUT:
            assert done.code == 0, (name, done)
    if way in ("kill", "down", "cut", "lost-down"):
        assert {one.repo.head.id != one.old for one in mine.values()} == {True, False}


def test_one_of_five_racing_writers_wins(tmp_path: Path) -> None:
    five = threading.Barrier(5)

    def together(request: Request) -> None:
        if request.method == "POST" and "/commit/" in request.path:
            five.wait(20)

    with Hub() as hub:
        repo = hub.add("user/repo", OLD)
        hub.watch = together
        jobs = {f"writer{n}": upload(tmp_path, f"writer{n}", "user/repo") for n in range(5)}
        done = fan(hub, tmp_path, jobs)
    won = [name for name, one in done.items() if one.code == 0]
    assert len(won) == 1, done
    assert len(repo.commits) == 2
    winner = files(tmp_path, won[0])["adapter_model.safetensors"]
    assert repo.data("adapter_model.safetensors") == winner
    for name, one in done.items():
        if name not in won:
            assert one.code == 1
            assert_one_sentence(one.err)
            assert "somebody else" in one.err


def test_writers_are_told_where_the_server_does_not_guard(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add("user/repo", OLD)
        hub.ignores_parent = True
        five = threading.Barrier(5)
        hub.watch = lambda one: five.wait(20) if "/commit/" in one.path else None  # type: ignore
        jobs = {f"writer{n}": upload(tmp_path, f"writer{n}", "user/repo") for n in range(5)}
        done = fan(hub, tmp_path, jobs)
    assert sorted(one.code for one in done.values()) == [0, 1, 1, 1, 1]


def test_what_the_server_damages_is_told(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add("user/repo", OLD)
        hub.mangle = lambda path, data: data + b" " if path == "tokenizer.json" else data
        job = upload(tmp_path, "mine", "user/repo")
        one = fan(hub, tmp_path, {"mine": job})["mine"]
    assert one.code == 1
    assert "tokenizer.json" in one.err
