"""`search` against the loopback hub: what it asks, what it prints, what it says where it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptertools import schema
from tests.hub_server import TOKEN, Hub

BASE = "org/base-350m"


def adapter(base: str, *tags: str, method: str = "LORA", card: bool = True) -> dict[str, bytes]:
    config = {"base_model_name_or_path": base, "peft_type": method, "r": 8}
    lines = [f"base_model: {base}", "library_name: peft", "license: mit", f"tags: {list(tags)}"]
    files = {"adapter_config.json": json.dumps(config).encode()}
    if card:
        files["README.md"] = "\n".join(["---", *lines, "---", ""]).encode()
    return files


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add(BASE, {"config.json": b"{}"})
        hub.add("org/other", {"config.json": b"{}"})
        hub.add("user/few", adapter(BASE, "lora"), downloads=3, likes=9)
        hub.add("user/many", adapter(BASE, "lora"), downloads=30_000, gated="manual")
        hub.add("user/ia3", adapter(BASE, "ia3", method="IA3"), downloads=2)
        hub.add("user/private", adapter(BASE, "lora"), private=True)
        hub.add("user/elsewhere", adapter("org/other", "lora"), downloads=100)
        merged = {"README.md": adapter(BASE)["README.md"], "model.safetensors": b"x" * 9}
        hub.add("user/merged", merged, downloads=50)
        yield hub


def test_the_table(hub: Hub, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "search", "--base", BASE, "--method", "lora", token=None)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "user/" in line]
    assert [row[:4] for row in rows] == [
        ["user/many", "lora", "30,000", "0"], ["user/few", "lora", "3", "9"]
    ]  # fmt: skip
    assert (rows[0][5:], rows[1][5:]) == (["mit", "manual"], ["mit", "no"])
    assert "1 left out, which are of another method." in done.stderr
    assert "1 left out, which hold no adapter_config.json." in done.stderr


def test_json_is_as_the_schema_says(hub: Hub, tmp_path: Path) -> None:
    start = len(hub.requests)
    done = hub.run(
        tmp_path,
        "search",
        "--base",
        BASE,
        "--json",
        "--sort",
        "likes",
        "--token",
        TOKEN,
        token=None,
    )
    found = json.loads(done.stdout)
    schema.check("search", found)
    assert found["hits"][0]["ref"] == "user/few"
    assert {hit["ref"] for hit in found["hits"]} == {
        "user/few", "user/many", "user/ia3", "user/private"
    }  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr
    # One question, and no adapter counts as downloaded.
    assert [r.path.split("?")[0] for r in hub.requests[start:]] == ["/api/models"]


def test_one_name_on_a_line(hub: Hub, tmp_path: Path) -> None:
    done = hub.run(tmp_path, "search", "--base", f"hf://{BASE}", "-q", "--limit", "2")
    assert done.stdout.splitlines() == ["user/many", "user/few"]


def test_the_list_comes_in_pages(hub: Hub, tmp_path: Path) -> None:
    hub.page = 1
    try:
        done = hub.run(tmp_path, "search", "--base", BASE, "-q", token=None)
    finally:
        hub.page = 1000
    assert len(done.stdout.splitlines()) == 3


def test_a_base_without_adapters_and_a_base_that_is_none(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/lonely", {"config.json": b"{}"})
    done = hub.run(tmp_path, "search", "--base", "org/lonely")
    assert (done.returncode, done.stdout) == (0, "org/lonely: no adapters found.\n")
    done = hub.run(tmp_path, "search", "--base", "org/lonly")
    assert done.returncode == 1
    assert "org/lonely" in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


def test_an_old_name_of_the_base_finds_its_adapters(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/new", {"config.json": b"{}"})
    hub.moved["models", "org/old"] = "org/new"
    hub.add("user/of-new", adapter("org/new"))
    done = hub.run(tmp_path, "search", "--base", "org/old")
    assert "user/of-new" in done.stdout
    assert done.stdout.startswith("org/new: 1 adapter,")


def test_a_busy_hub_is_asked_again_and_a_broken_one_explained(hub: Hub, tmp_path: Path) -> None:
    hub.fault("503", path="/api/models*", times=1)
    assert hub.run(tmp_path, "search", "--base", BASE, "-q").returncode == 0
    hub.fault("html", path="/api/models*")
    done = hub.run(tmp_path, "search", "--base", BASE)
    hub.heal()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no JSON" in done.stderr


def test_nobody_is_asked_offline(hub: Hub, tmp_path: Path) -> None:
    start = len(hub.requests)
    done = hub.run(tmp_path, "search", "--base", BASE, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout, len(hub.requests)) == (1, "", start)
    assert done.stderr == (
        f"error: Only the Hub knows the adapters of {BASE}, and HF_HUB_OFFLINE forbids to ask it. "
        "Unset it.\n"
    )
