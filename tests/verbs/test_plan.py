"""plan: from headers alone, the same for the same inputs, and it leaves nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools import tensorfile
from adaptertools.errors import Mismatch, NotFound, Unsupported
from tests import tiny_llama as tiny
from tests.kit import CASES

# Cases in which nothing has to be compared: no tied copies, nothing that is saved twice.
HEADERS_ONLY = (
    "linear_llama_sharded",
    "conv1d_gpt2",
    "dora_linear",
    "embedding",
    "kasa",
    "tokens",
    "save_lm_head",
    "lora_bias",
    "two_scaled",
    "tied_lm_head",
    "replicated",
    "head_gpt2",
)


@pytest.mark.parametrize("name", HEADERS_ONLY)
def test_no_tensor_data_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object) -> None:
        raise AssertionError("tensor data was read")

    case = CASES[name]
    case.build(tmp_path, torch.float32)
    for module, call in (
        (os, "preadv"),
        (os, "pread"),
        (tensorfile, "read"),
        (tensorfile, "finite"),
    ):
        monkeypatch.setattr(module, call, never)
    options = case.merge_options | ({"scale": list(case.scales)} if case.scales else {})
    plan = at.plan(case.adapters(tmp_path), base=tmp_path / "base", out=tmp_path / "out", **options)
    assert plan.edits
    with pytest.raises(AssertionError, match="was read"):
        at.merge(plan)


def test_a_base_whose_data_cannot_be_read_is_planned_all_the_same(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    wanted = at.plan(adapter, base=base, out=tmp_path / "out")
    shard = base / "model.safetensors"
    data = shard.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    shard.write_bytes(data[:header])
    os.truncate(shard, len(data))
    assert at.plan(adapter, base=base, out=tmp_path / "out") == wanted


PLAIN = """
import sys
import adaptertools as at
plan = at.plan(sys.argv[1], base=sys.argv[2], out=sys.argv[3])
assert plan.edits
print(*(m for m in ("numpy", "ml_dtypes", "torch", "click", "huggingface_hub") if m in sys.modules))
"""


def test_planning_imports_no_numpy(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path, shards=2)
    command = [sys.executable, "-c", PLAIN, adapter, base, tmp_path / "out"]
    environment = os.environ | {"PYTHONPATH": str(Path(at.__file__).parents[1])}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_nothing_is_left(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    before = tiny.contents(tmp_path)
    at.plan(adapter, base=base, out=tmp_path / "a" / "out", max_shard_size="5KB", dtype="bfloat16")
    assert tiny.contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_dry_run_shows_the_plan_and_leaves_nothing(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    before = tiny.contents(tmp_path)
    command = [sys.executable, "-m", "adaptertools", "merge", adapter, "--base", base]
    command += ["--out", tmp_path / "out", "--dry-run", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(at.__file__).parents[1])}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wanted = at.plan(str(adapter), base=str(base), out=str(tmp_path / "out"))
    assert json.loads(said.stdout) == wanted.as_json()
    assert tiny.contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


# The digest


def digest(folder: Path, out: str = "out", **options: Any) -> str:
    plan = at.plan(folder / "adapter", base=folder / "base", out=folder / out, **options)
    assert plan.as_json()["digest"] == plan.digest
    return plan.digest


@pytest.fixture
def small(tmp_path: Path) -> Path:
    tiny.small(tmp_path)
    return tmp_path


def test_the_digest_is_the_same_for_the_same_inputs(small: Path) -> None:
    assert digest(small) == digest(small, out="elsewhere") == digest(small, scale=1.0)


def test_the_digest_changes_with_every_option(small: Path) -> None:
    options: list[dict[str, Any]] = [
        {}, {"scale": 0.5}, {"dtype": "float16"}, {"max_shard_size": "9KB"},
        {"allow_nonfinite": True}, {"tied": "keep"}, {"mha_out_proj": "once"},
    ]  # fmt: skip
    assert len({digest(small, **each) for each in options}) == len(options)


def rewrite(change: Callable[[tiny.Tensors], tiny.Tensors]) -> Callable[[Path], None]:
    """Change the tensors of the adapter."""

    def spoil(folder: Path) -> None:
        path = folder / "adapter" / "adapter_model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return spoil


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file."""

    def spoil(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def remade(folder: Path) -> None:
    """Write the base anew, with the same tensors and another header."""
    path = folder / "base" / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "made": "again"})


CHANGES = {
    "adapter bytes": rewrite(lambda tensors: {n: t * 2 for n, t in tensors.items()}),
    "alpha": edit("adapter/adapter_config.json", lora_alpha=9),
    "base header": remade,
    "base config": edit("base/config.json", rope_theta=7.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_digest_changes_with_every_input(change: Callable[[Path], None], small: Path) -> None:
    before = digest(small)
    change(small)
    assert digest(small) != before


# What it refuses


def test_a_module_that_the_base_lacks_is_named(small: Path) -> None:
    rewrite(lambda held: {n.replace("q_proj", "q_prod"): t for n, t in held.items()})(small)
    with pytest.raises(Mismatch, match=r"q_prod.*nearest: .*q_proj"):
        digest(small)


def test_a_base_of_another_size_is_refused(small: Path) -> None:
    other = tiny.save_base(small / "other", tiny.llama(hidden=64))
    with pytest.raises(Mismatch, match=r"32×48, the weight is 64×48"):
        at.plan(small / "adapter", base=other, out=small / "out")


def test_half_a_pair_is_refused(small: Path) -> None:
    rewrite(lambda held: {n: t for n, t in held.items() if "0.self_attn.q_proj.lora_B" not in n})(
        small
    )
    with pytest.raises(at.errors.Unreadable, match=r"q_proj has no lora_B"):
        digest(small)


def test_a_base_that_nobody_names_is_asked_for(small: Path) -> None:
    edit("adapter/adapter_config.json", base_model_name_or_path=None)(small)
    with pytest.raises(NotFound, match="--base"):
        at.plan(small / "adapter", out=small / "out")


def test_the_base_that_the_adapter_names_is_taken(small: Path) -> None:
    plan = at.plan(small / "adapter", out=small / "out")
    assert plan.base["ref"] == str(small / "base")


def test_a_quantised_base_is_refused(small: Path) -> None:
    edit("base/config.json", quantization_config={"quant_method": "gptq"})(small)
    with pytest.raises(Unsupported, match="gptq"):
        digest(small)


@pytest.mark.parametrize(("option", "value"), [("tied", "no"), ("mha_out_proj", "thrice")])
def test_a_choice_that_is_none_is_refused(option: str, value: str, small: Path) -> None:
    with pytest.raises(Unsupported, match=value):
        digest(small, **{option: value})


def test_no_adapter_is_refused(small: Path) -> None:
    with pytest.raises(Mismatch, match="0 adapters"):
        at.plan([], base=small / "base", out=small / "out")
