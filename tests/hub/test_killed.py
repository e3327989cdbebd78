"""A download that is killed leaves nothing damaged, and the next one brings what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.test_faults import FILES, assert_nothing_damaged
from tests.hub_server import Hub
from tests.hub_server_clients import Done, Killer, fan

DEPTH = 7  # requests, at each of which a client is killed


def download(hub: Hub, home: Path, way: str) -> dict[str, Done]:
    jobs = {}
    for number in range(DEPTH):
        name = f"{way}{number}"
        into = ["--local-dir", home / name] if way == "local" else []
        jobs[name] = ["download", f"user/{name}", "-q", *into]
    return fan(hub, home, jobs)


@pytest.mark.parametrize("way", ["cache", "local"])
def test_killed_at_every_request(tmp_path: Path, way: str) -> None:
    with Hub() as hub:
        for number in range(DEPTH):
            hub.add(f"user/{way}{number}", FILES)
        hub.watch = Killer(tmp_path, {f"{way}{number}": number for number in range(DEPTH)})
        killed = download(hub, tmp_path, way)
        assert [one.code for one in killed.values()] == [-9] * DEPTH
        assert_nothing_damaged([path for path in tmp_path.rglob("*") if path.is_file()])
        hub.watch = lambda request: None
        for one in download(hub, tmp_path, way).values():
            assert one.code == 0, one.err
            folder = Path(one.out.strip())
            assert {name: folder.joinpath(name).read_bytes() for name in FILES} == FILES
