"""What is not uploaded: one sentence says why, and the Hub sees nothing of it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.hub_server import READER, STRANGER, TOKEN, Hub
from tests.hub_server_clients import Done, fan
from tests.verbs import upload_folders as made

BAD: Mapping[str, tuple[Callable[[Path], None], list[str], str]] = {
    "local": (made.local, [], "'/data/me/llama' as its base"),
    "nameless": (made.nameless, [], "--base org/model"),
    "broken": (made.broken, [], "WGT004"),
    "inner": (made.inner, [], "checkpoint-6"),
    "whole": (made.whole, [], "without the receipt of a merge"),
    "weights": (made.weights_only, [], "no adapter_config.json"),
    "mlx": (made.mlx, [], "MLX"),
    "public": (made.plain, ["--private"], "public already"),
    "nowhere": (made.plain, ["--create-pr"], "is not there"),
    "odd-pull": (made.plain, ["--create-pr", "--revision", "dev"], "--create-pr"),
    "commit": (made.plain, ["--revision", "0" * 40], "is a commit"),
    "base": (made.plain, ["--base", "../base"], "org/model"),
    "no-config": (made.plain, ["--exclude", "*.json"], "adapter_config.json"),
    "reader": (made.plain, ["--token", READER], "user/reader"),
    "stranger": (made.plain, ["--token", STRANGER], "user/stranger"),
    "unknown": (made.plain, ["--token", "hf_nobodyknowsthisone"], "hf auth login"),
    "readonly": (made.plain, [], "user/readonly"),
    "file": (lambda folder: folder.write_bytes(b""), [], "is a file"),
    "missing": (lambda folder: None, [], "no such folder"),
    "yaml": (made.odd_card, [], "README.md"),
    "weird-card": (made.weird_card, [], "README.md"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, dict[str, Done]]]:
    home = tmp_path_factory.mktemp("refusals")
    jobs: dict[str, list[object]] = {}
    with Hub() as hub:
        hub.add("user/public", {".gitattributes": b""})
        hub.add("user/readonly", {".gitattributes": b""}, readonly=True)
        for name, (make, options, _) in BAD.items():
            make(home / name)
            jobs[name] = ["upload", f"user/{name}", home / name, *options, "--json"]
        yield hub, fan(hub, home, jobs)
        assert hub.leaks == []


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(refusals: tuple[Hub, dict[str, Done]], name: str) -> None:
    hub, done = refusals
    assert (done[name].code, done[name].out) == (1, "")
    first = done[name].err.splitlines()[0]
    assert first.startswith("error: ")
    assert first.endswith(".")
    assert BAD[name][2] in done[name].err
    assert not {TOKEN, READER, STRANGER, "hf_nobody"} & set(done[name].err.split())
    repo = hub.repos.get(("models", f"user/{name}"))
    assert repo is None or len(repo.commits) == 1
