"""Whole files through the cache: verified, repaired once, and never wrong under their names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import TOKEN, Hub

CONFIG = b'{"peft_type": "LORA", "r": 2}\n'
WEIGHTS = bytes(range(256)) * 400
FILES = {
    "adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS, "README.md": b"# card\n",
    "optimizer.pt": b"state", "adapter_model.bin": b"pickle",
    "checkpoint-6/adapter_config.json": CONFIG, "checkpoint-6/adapter_model.safetensors": b"\0six",
}  # fmt: skip
NEEDED = ("README.md", "adapter_config.json", "adapter_model.safetensors")
DOWNLOAD = "import sys, json, adaptertools as at; r = at.download({!r}); print(json.dumps(r.facts))"
LOCAL = "from adaptertools import hub; print(hub.fetch.local({!r}, {!r}))"


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


def snapshot(tmp_path: Path, hub: Hub) -> Path:
    place = tmp_path / "hf" / "hub" / "models--user--repo" / "snapshots"
    return place / hub.repo("user/repo").head.id


def download(hub: Hub, tmp_path: Path, name: str = "user/repo", **env: str) -> dict[str, Any]:
    done = hub.call(tmp_path, DOWNLOAD.format(name), **env)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def how(facts: dict[str, Any]) -> dict[str, str]:
    return {file["name"]: file["how"] for file in facts["files"]}


def lying(folder: Path) -> dict[str, bytes]:
    """Give all files of a folder that are no links to nowhere."""
    found = {path: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))}
    return {name: path.read_bytes() for path, name in found.items() if path.is_file()}


def test_what_an_adapter_needs_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    facts = download(hub, tmp_path)
    assert Path(facts["folder"]) == snapshot(tmp_path, hub)
    assert lying(snapshot(tmp_path, hub)) == {name: FILES[name] for name in NEEDED}
    assert set(how(facts).values()) == {"fetched"}
    assert facts["fetched"] == facts["bytes"] == sum(len(FILES[name]) for name in NEEDED)
    assert not hub.leaks
    seen = [one for one in hub.requests if "optimizer" in one.path or "checkpoint" in one.path]
    assert seen == []
    hub.requests.clear()
    assert set(how(download(hub, tmp_path)).values()) == {"cached"}
    assert [one.path.partition("?")[0] for one in hub.requests] == ["/api/models/user/repo"]


def test_a_commit_that_is_known_needs_no_request(hub: Hub, tmp_path: Path) -> None:
    name = f"user/repo@{hub.repo('user/repo').head.id}"
    download(hub, tmp_path, name)
    hub.requests.clear()
    assert set(how(download(hub, tmp_path, name)).values()) == {"cached"}
    assert hub.requests == []


DAMAGE: dict[str, dict[str, Any]] = {
    "flip": {}, "swap": {}, "truncate": {}, "long": {}, "length": {}, "etag": {"method": "*"},
    "unsized": {"method": "*"}, "reset": {"after": 5000}, "drop": {"after": 5000}, "503": {},
}  # fmt: skip


SMALL, LARGE = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("name", "path"), [*((name, LARGE) for name in DAMAGE), ("swap", SMALL), ("unsized", SMALL)]
)
def test_once_damaged_is_repaired(name: str, path: str, hub: Hub, tmp_path: Path) -> None:
    hub.fault(name, path, times=1, **{"method": "GET"} | DAMAGE[name])
    download(hub, tmp_path)
    assert lying(snapshot(tmp_path, hub)) == {name: FILES[name] for name in NEEDED}


@pytest.mark.parametrize(
    ("name", "path"), [("flip", SMALL), ("swap", LARGE), ("truncate", LARGE), ("long", SMALL)]
)
def test_always_damaged_is_an_error_and_leaves_nothing(
    name: str, path: str, hub: Hub, tmp_path: Path
) -> None:
    hub.fault(name, path, method="GET")
    done = hub.run(tmp_path, "download", "user/repo")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {path} of user/repo is damaged (")
    assert done.stderr.count("\n") == 1
    left = [n for n, data in lying(snapshot(tmp_path, hub)).items() if data != FILES[n]]
    assert left == []
    blobs = lying(tmp_path / "hf" / "hub" / "models--user--repo" / "blobs").values()
    assert all(data in FILES.values() for data in blobs)
    assert not (tmp_path / "hf" / "hub" / "models--user--repo" / "refs" / "main").exists()


def test_damage_in_the_cache_is_found_and_repaired(hub: Hub, tmp_path: Path) -> None:
    download(hub, tmp_path)
    for name in NEEDED:
        path = snapshot(tmp_path, hub) / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.resolve().write_bytes(data)
    assert set(how(download(hub, tmp_path)).values()) == {"repaired"}
    assert lying(snapshot(tmp_path, hub)) == {name: FILES[name] for name in NEEDED}


def test_a_cache_without_links_is_verified_too(hub: Hub, tmp_path: Path) -> None:
    download(hub, tmp_path, HF_HUB_DISABLE_SYMLINKS="1")
    path = snapshot(tmp_path, hub) / "adapter_model.safetensors"
    assert not path.is_symlink()
    path.write_bytes(WEIGHTS[::-1])
    facts = download(hub, tmp_path, HF_HUB_DISABLE_SYMLINKS="1")
    assert how(facts)["adapter_model.safetensors"] == "repaired"
    assert path.read_bytes() == WEIGHTS


def test_what_others_fetched_is_verified_too(hub: Hub, tmp_path: Path) -> None:
    theirs = "import huggingface_hub; huggingface_hub.snapshot_download('user/repo')"
    blob = hub.repo("user/repo").head.files["adapter_model.safetensors"].sha256
    hub.fault("flip", f"/{blob}/", times=1)  # not the checkpoint's file of that name
    assert hub.call(tmp_path, theirs).returncode == 0
    assert (snapshot(tmp_path, hub) / "adapter_model.safetensors").read_bytes() != WEIGHTS
    assert how(download(hub, tmp_path))["adapter_model.safetensors"] == "repaired"


@pytest.mark.parametrize("theirs", [True, False], ids=["fetched by hf", "fetched by us"])
def test_offline_the_cache_answers(theirs: bool, hub: Hub, tmp_path: Path) -> None:
    if theirs:
        code = "import huggingface_hub; huggingface_hub.snapshot_download('user/repo')"
        assert hub.call(tmp_path, code).returncode == 0
    else:
        download(hub, tmp_path)
    hub.requests.clear()
    facts = download(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert Path(facts["folder"]) == snapshot(tmp_path, hub)
    assert sorted(how(facts)) == sorted(NEEDED)
    weights = snapshot(tmp_path, hub) / "adapter_model.safetensors"
    weights.resolve().write_bytes(WEIGHTS[::-1])
    done = hub.run(tmp_path, "download", "user/repo", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "removed from the cache, and HF_HUB_OFFLINE forbids" in done.stderr
    assert not weights.exists()
    done = hub.run(tmp_path, "download", "user/repo", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "adapter_model.safetensors of user/repo is not all in the cache" in done.stderr
    assert hub.requests == []


def test_local_gives_what_the_verb_needs(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/base", {"config.json": b"{}", "model.safetensors": b"\0m", "x.bin": b"\0"})
    done = hub.call(tmp_path, LOCAL.format("org/base", "base"))
    assert sorted(lying(Path(done.stdout.strip()))) == ["config.json", "model.safetensors"]
    done = hub.call(tmp_path, LOCAL.format("user/repo/checkpoint-6", "adapter"))
    assert Path(done.stdout.strip()) == snapshot(tmp_path, hub) / "checkpoint-6"
    assert sorted(lying(Path(done.stdout.strip()))) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_others_find_by_name_what_was_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.repo("user/repo").refs["refs/heads/a/b"] = hub.repo("user/repo").head.id
    download(hub, tmp_path)
    download(hub, tmp_path, "user/repo@a%2Fb")
    for revision in ("main", "a/b"):
        code = (
            "import huggingface_hub as h; "
            f"print(h.hf_hub_download('user/repo', 'README.md', revision={revision!r}))"
        )
        done = hub.call(tmp_path, code, HF_HUB_OFFLINE="1")
        assert Path(done.stdout.strip()) == snapshot(tmp_path, hub) / "README.md"


def test_the_token_stays_where_it_belongs(hub: Hub, tmp_path: Path) -> None:
    hub.add("user/secret", FILES, private=True)
    assert hub.run(tmp_path, "download", "user/secret", token=None).returncode == 1
    done = hub.run(tmp_path, "download", "user/secret", "--token", TOKEN, token=None)
    assert done.returncode == 0
    assert not hub.leaks
    kept = lying(tmp_path)
    assert not [name for name, data in kept.items() if TOKEN.encode() in data]
    assert TOKEN not in done.stdout + done.stderr
