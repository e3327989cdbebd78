"""inspect of what is no adapter, cannot be reached, or means harm: one sentence, exit 1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import opt_lora
from tests.hub_server import READER, STRANGER, TOKEN, Hub

SMALL = opt_lora.small()


def below(*folders: str) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for folder in folders for name, data in SMALL.items()}


REPOS: dict[str, dict[str, bytes]] = {
    "user/my-lora": SMALL,
    "user/merged": {"config.json": b"{}", "model.safetensors": b"x" * 99, "README.md": b"x"},
    "user/run": {**below("checkpoint-6"), "trainer_state.json": b"{}"},
    "user/several": below("english", "french/v2"),
    "user/rows": {"train.parquet": b"x" * 9, "README.md": b"y"},
    "user/states": {"optimizer.pt": b"x", "latest": b"y"},
    "user/bare": {".gitattributes": b""},
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as made:
        for name, files in REPOS.items():
            made.add(name, files)
        made.add("user/gated", SMALL, gated="manual")
        made.add("stranger/private", SMALL, private=True)
        made.add("user/questions", {"a.csv": b"x"}, kind="dataset")
        made.add("user/old", SMALL)
        made.move("user/old", "user/new")
        yield made
        assert made.leaks == []


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no repository, a near one": ("user/my-loras", {}, "Near it: user/my-lora."),
    "no repository": ("nobody/nothing", {}, "no such repository or revision on the Hub"),
    "no revision": ("user/my-lora@mian", {}, "has no revision mian. It has main."),
    "no folder": ("user/run/checkpoint-7", {}, "has no folder checkpoint-7. It has checkpoint-6."),
    "gated": ("user/gated", {"token": STRANGER}, "/user/gated. Accept them there, and try"),
    "gated, nobody": ("user/gated", {"token": None}, "`hf auth login`, and try again"),
    "private": ("stranger/private", {"token": READER}, "the token in use cannot see it"),
    "private, nobody": ("stranger/private", {"token": None}, "`hf auth login` if it is yours"),
    "bad token": ("user/my-lora", {"token": "hf_" + "x" * 30}, "does not know the token"),
    "no network": ("user/my-lora", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    "a merged model": ("user/merged", {}, "looks like a merged or whole model"),
    "a checkpoint folder": ("user/run", {}, "one in checkpoint-6/: give user/run/checkpoint-6."),
    "several": ("user/several", {}, "There are 2 in it: english/, french/v2/; give one of them"),
    "data": ("user/rows", {}, "looks like a dataset"),
    "a dataset": ("user/questions", {}, "user/questions is a dataset on the Hub"),
    "the state of a run": ("user/states", {}, "looks like the state of a training run"),
    "nothing": ("user/bare", {}, "has no adapter_config.json. Found: .gitattributes."),
}


ASK = """
import json, sys
import adaptertools as at
said = {}
for ref in sys.argv[1:]:
    try:
        at.inspect(ref)
    except at.errors.AdapterToolsError as error:
        said[ref] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Ask for all, in one process for each kind of client: HF_* are read when it starts."""
    found: dict[str, str] = {}
    for client in {json.dumps(client): client for _, client, _ in BAD.values()}.values():
        cases = {case: ref for case, (ref, own, _) in BAD.items() if own == client}
        run = hub.call(tmp_path_factory.mktemp("client"), ASK, *cases.values(), **client)
        assert run.returncode == 0, run.stderr
        assert run.stderr == ""
        told = json.loads(run.stdout)
        found |= {case: told[ref] for case, ref in cases.items()}
    return found


@pytest.mark.parametrize("case", BAD)
def test_one_sentence(case: str, said: dict[str, str]) -> None:
    words = BAD[case][2]
    assert words in said[case]
    assert said[case].isprintable()
    assert not [secret for secret in (TOKEN, READER, STRANGER, "hf_xxx") if secret in said[case]]


def test_on_the_command_line(hub: Hub, tmp_path: Path) -> None:
    hub.requests.clear()
    run = hub.run(tmp_path, "inspect", "user/my-loras")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("error: user/my-loras: no such repository")
    assert run.stderr.endswith("\nThere is no folder user/my-loras here either.\n")
    assert run.stderr.count("\n") == 2
    assert len(hub.requests) <= 5


def test_a_revision_is_said_once(hub: Hub, tmp_path: Path) -> None:
    run = hub.run(tmp_path, "inspect", "user/my-lora@main", "--revision", "other")
    assert (run.returncode, "says another revision than other" in run.stderr) == (1, True)
    run = hub.run(tmp_path, "inspect", ".", "--revision", "main")
    assert (run.returncode, "so it has no revision main" in run.stderr) == (1, True)


def test_a_token_is_used_and_not_shown(hub: Hub, tmp_path: Path) -> None:
    run = hub.run(tmp_path, "inspect", "stranger/private", "--token", STRANGER, token=None)
    assert run.returncode == 0, run.stderr
    assert "private" in run.stdout.splitlines()[1]
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert STRANGER.encode() not in kept
    assert STRANGER not in run.stdout + run.stderr


def test_a_renamed_repository_is_found(hub: Hub, tmp_path: Path) -> None:
    run = hub.run(tmp_path, "inspect", "user/old")
    assert run.returncode == 0, run.stderr
    assert "  hub       user/new at " in run.stdout


HOSTILE = ["../above.json", "/absolute", "a\\b", "NUL", "sub/../../up", "Adapter_Config.json",
           "x\n::error::y", "aux.txt", "c:evil", ".git/hooks/post-checkout"]  # fmt: skip


def test_hostile_names_become_no_paths(hub: Hub, tmp_path: Path) -> None:
    hub.add("user/evil", {**SMALL, **dict.fromkeys(HOSTILE, b"x")})
    run = hub.run(tmp_path, "validate", "user/evil", "--select", "FIL007,SEC011", "-v")
    assert run.returncode == 1
    for name in ("../above.json", "/absolute", "a\\b", "sub/../../up", "x\\n", "c:evil"):
        assert name in run.stdout
    made = {path for path in tmp_path.rglob("*") if path.is_file()}
    fetched = {path.name for path in made if path.parent.name == "files"}
    assert fetched == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {path.parent.name for path in made if path.name not in {*fetched, "repo.json"}} == {
        "refs"
    }
    assert not [*tmp_path.parent.glob("up"), *tmp_path.parent.glob("above.json")]


def test_a_hostile_weights_name_is_no_path(hub: Hub, tmp_path: Path) -> None:
    both = {"ADAPTER_MODEL.safetensors": b"x", "Adapter_config.json": b"{}"}
    hub.add("user/twice", {**SMALL, **both})
    run = hub.run(tmp_path, "inspect", "user/twice")
    assert run.returncode == 0, run.stderr
    assert "adapter_model.safetensors: 32 parameters in 2 tensors" in run.stdout
