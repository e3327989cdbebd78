"""inspect of a repository: the whole answer, from a few kilobytes and requests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

import adaptertools as at
from tests.hub import opt_lora
from tests.hub_server import Hub

MOST_REQUESTS, MOST_BYTES = 6, 200_000


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as made:
        yield made
        assert made.leaks == []


@pytest.fixture(autouse=True)
def _fresh(hub: Hub) -> None:
    hub.heal()
    hub.requests.clear()


def cost(hub: Hub, what: str) -> tuple[int, int]:
    """Count what was asked and sent since the last time, redirects too, and print it."""
    count = len(hub.requests), sum(one.bytes_sent for one in hub.requests)
    hub.requests.clear()
    sys.stdout.write(f"{what}: {count[0]} requests, {count[1]} bytes\n")
    return count


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def told(run: Any) -> dict[str, Any]:
    """Read what --json printed."""
    assert run.returncode == 0, run.stderr
    value: dict[str, Any] = json.loads(run.stdout)
    return value


SHOWN = """\
  base      facebook/opt-350m
  task      CAUSAL_LM
  rank      16, alpha 32, scale 2
  weights   {file}: 1.57M parameters in 96 tensors, 6.29 MB; F32 in 96
  PEFT      0.3.0 or later, by its keys
  targets   model.decoder.layers.0-23.self_attn.{{q,v}}_proj
  modules                                         weight  rank  alpha  scale  parameters
  model.decoder.layers.*.self_attn.q_proj  24  1024×1024    16     32      2        786k
  model.decoder.layers.*.self_attn.v_proj  24  1024×1024    16     32      2        786k
  merge     changes 48 weights; pass --base to see which
"""


@pytest.mark.parametrize("kind", ["safetensors", "pickled"])
def test_the_whole_answer(kind: str, hub: Hub, tmp_path: Path) -> None:
    files: dict[str, bytes] = getattr(opt_lora, kind)()
    commit = hub.add(opt_lora.NAME, files).head.id
    run = hub.run(tmp_path, "inspect", "ybelkada/opt-350m-lora")
    assert (run.returncode, run.stderr) == (0, "")
    head, rest = run.stdout.split("  base ", 1)
    assert head.splitlines() == [
        f"{opt_lora.NAME}: LORA; format: Hugging Face PEFT",
        f"  hub       {opt_lora.NAME} at {commit[:12]}, public",
        "  scan      no complaint",
    ]
    file = next(name for name in files if name.startswith("adapter_model"))
    expected = SHOWN.format(file=file)
    assert f"  base {rest}".startswith(expected)
    notes = f"  base {rest}".removeprefix(expected)
    pickle = f"  note      {file} is a pickle; its tensors were listed without running it.\n"
    assert notes == (pickle if kind == "pickled" else "")
    requests, sent = cost(hub, f"inspect, {kind}")
    assert requests <= MOST_REQUESTS
    assert sent <= MOST_BYTES


@pytest.mark.parametrize("kind", ["safetensors", "pickled"])
def test_it_is_the_answer_for_the_files_themselves(kind: str, hub: Hub, tmp_path: Path) -> None:
    files: dict[str, bytes] = getattr(opt_lora, kind)()
    hub.add(opt_lora.NAME, files)
    there = told(hub.run(tmp_path, "inspect", opt_lora.NAME, "--tensors", "--json"))
    here = at.inspect(write(tmp_path / "local", files), tensors=True).as_json()
    remote = there.pop("remote")
    assert here.pop("remote") is None
    assert there.pop("ref") == opt_lora.NAME
    del here["ref"]
    assert there == here
    assert remote["unread"] == ["README.md"]
    assert set(remote["scan"].values()) == {"safe"}


def test_what_was_seen_is_not_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("user/again", opt_lora.small()).head.id
    first = told(hub.run(tmp_path, "inspect", "user/again", "--json"))
    cost(hub, "first")
    assert told(hub.run(tmp_path, "inspect", "user/again", "--json")) == first
    assert cost(hub, "again")[0] == 1
    for ref, env in {f"user/again@{commit}": "", "user/again": "1"}.items():
        again = told(hub.run(tmp_path, "inspect", ref, "--json", HF_HUB_OFFLINE=env))
        assert again == {**first, "ref": ref}
        assert cost(hub, f"{ref}, offline {env!r}")[0] == 0
    hub.update("user/again", opt_lora.small(rank=4))
    assert told(hub.run(tmp_path, "inspect", "user/again", "--json"))["rank"] == [4]
    by_name = told(hub.run(tmp_path, "inspect", "user/again", "--revision", commit, "--json"))
    assert by_name["rank"] == [2]


FETCH = "import huggingface_hub as h; h.snapshot_download('user/cached', allow_patterns=['*r_*'])"


def test_offline_the_hubs_own_cache_answers(hub: Hub, tmp_path: Path) -> None:
    hub.add("user/cached", opt_lora.small())
    alone = hub.run(tmp_path, "inspect", "user/cached", HF_HUB_OFFLINE="1")
    assert alone.returncode == 1
    assert "user/cached is not in the cache, and HF_HUB_OFFLINE forbids" in alone.stderr
    assert hub.call(tmp_path, FETCH).returncode == 0
    hub.requests.clear()
    there = told(hub.run(tmp_path, "inspect", "user/cached", "--json", HF_HUB_OFFLINE="1"))
    assert (there["rank"], there["modules"]) == ([2], 1)
    assert hub.requests == []


def test_the_library_looks_too_and_opens_whole_files(hub: Hub, tmp_path: Path) -> None:
    hub.add("user/library", opt_lora.small(layers=3))
    code = """
import adaptertools as at
from adaptertools import tensorfile
found = at.inspect('user/library@main')
print(found.rank, found.remote.id, len(found.remote.commit))
spec = max(at.open('user/library').tensors.values())
print(tensorfile.read(spec).mean())
print([f.code for f in at.validate('user/library').findings])
"""
    run = hub.call(tmp_path, code)
    assert run.stdout.splitlines()[:2] == ["(2,) user/library 40", "3.0"], run.stderr
    assert "BAS004" in run.stdout


def test_deep_reads_whole_verified_files(hub: Hub, tmp_path: Path) -> None:
    files = opt_lora.small(layers=2)
    hub.add("user/deep", files)
    hub.run(tmp_path, "inspect", "user/deep")  # a peek is there, and no tensors in it
    there = told(hub.run(tmp_path, "inspect", "user/deep", "--deep", "--json"))
    here = at.inspect(write(tmp_path / "local", files), deep=True).as_json()
    assert there["norms"] == here["norms"]
    assert there["norms"][0]["norm"] > 0
    assert there["remote"]["unread"] == []
    hub.add("user/deep2", files)
    hub.fault("flip", path="/cdn/*")
    broken = hub.run(tmp_path, "inspect", "user/deep2", "--deep")
    assert broken.returncode == 1
    assert "sha256" in broken.stderr


def test_tensors_that_it_takes_to_tell_are_fetched(hub: Hub, tmp_path: Path) -> None:
    """PEFT saves some copies twice; whether they are equal is not in the header."""
    names = ("lm_head", "lm_head.modules_to_save")
    for other, words in {
        1.0: "saved a second time under another name, equal",
        2.0: "and they",
    }.items():
        head = {f"base_model.model.{name}.weight": np.full((5_000, 8), value, np.float32)
                for name, value in zip(names, (1.0, other), strict=True)}  # fmt: skip
        files = opt_lora.small(modules_to_save=["lm_head"])
        whole = {**load(files["adapter_model.safetensors"]), **head}
        hub.add("user/twice", {**files, "adapter_model.safetensors": save(whole)})
        run = hub.run(tmp_path, "inspect", "user/twice")
        assert words in run.stdout, run.stderr


def test_a_folder_needs_no_network_and_none_of_its_libraries(hub: Hub, tmp_path: Path) -> None:
    folder = write(tmp_path / "local", opt_lora.small())
    code = f"""
import sys, adaptertools as at
assert at.inspect({str(folder)!r}).remote is None
print(*(m for m in ("huggingface_hub", "httpx", "httpx2", "fsspec", "torch", "numpy")
        if m in sys.modules))
"""
    run = hub.call(tmp_path, code)
    assert (run.stdout, run.stderr) == ("\n", "")
    assert hub.requests == []
