"""Sizes of fused experts, against what the releases of PEFT merge, in float64."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adaptertools as at
from adaptertools import schema
from adaptertools.cli import _heat, _page
from tests.cli import run
from tests.verbs.test_experts import HERE, LAYER, SQUARE, changed
from tests.verbs.test_merge_experts import expected
from tests.verbs.test_stack_experts import WIDE, base_of, random

os.environ.setdefault("HF_HUB_OFFLINE", "1")
EXPERTS = f"{LAYER}.experts"


def deep(folder: Path, base: Path | None = None) -> dict[str, Any]:
    found = at.inspect(folder, deep=True, base=base)
    schema.check("inspect", json.loads(json.dumps(found.as_json(), allow_nan=False)))
    assert found.norms is not None
    return {norm.name: norm for norm in found.norms}


def check(norm: Any, delta: Any) -> None:
    """Hold the figures of a parameter against its dense change."""
    values = np.linalg.svd(delta if delta.ndim == 3 else delta[None], compute_uv=False)
    assert norm.why == ""
    assert norm.norm == pytest.approx(np.linalg.norm(values), rel=1e-9)
    assert norm.spectral == pytest.approx(values.max(), rel=1e-9)
    assert norm.experts == len(values)
    alive = values[values[:, 0] > 1e-12]
    assert norm.still == len(values) - len(alive)
    assert norm.rank == max(np.linalg.matrix_rank(d) for d in delta.reshape(-1, *delta.shape[-2:]))
    stable = np.median((alive**2).sum(1) / alive[:, 0] ** 2)
    assert norm.stable_rank == pytest.approx(stable, rel=1e-9)
    shares = alive / alive.sum(1, keepdims=True)
    entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(1)
    assert norm.effective_rank == pytest.approx(np.median(np.exp(entropy)), rel=1e-6)


@pytest.mark.parametrize("release", ["0.18.1", "0.19.0", "0.21.2"])
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_sizes_are_those_of_what_a_release_merges(release: str, family: str) -> None:
    folder = HERE / release / f"{family}-wide"
    norms, deltas = deep(folder), expected(folder)
    check(norms[EXPERTS], deltas[f"{EXPERTS}.down_proj"])
    check(norms[f"{EXPERTS}.base_layer"], deltas[f"{EXPERTS}.gate_up_proj"])
    assert norms.keys() == {EXPERTS, f"{EXPERTS}.base_layer"}


def test_other_modules_have_sizes_beside_them() -> None:
    folder = HERE / "0.21.2/qwen3_moe-mixed"
    norms, deltas = deep(folder), expected(folder)
    check(norms[EXPERTS], deltas[f"{EXPERTS}.down_proj"])
    check(norms[f"{LAYER}.gate"], deltas[f"{LAYER}.gate.weight"])
    attention = "model.layers.0.self_attn.q_proj"
    check(norms[attention], deltas[f"{attention}.weight"])


def test_ranks_that_only_a_base_assigns(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.0")
    assert all("Pass the model as --base" in n.why for n in deep(HERE / SQUARE).values())
    norms = deep(HERE / SQUARE, base_of("qwen3_moe-square", tmp_path / "base"))
    deltas = expected(HERE / SQUARE)
    check(norms[EXPERTS], deltas[f"{EXPERTS}.down_proj"])
    check(norms[f"{EXPERTS}.base_layer"], deltas[f"{EXPERTS}.gate_up_proj"])


def test_experts_that_were_never_trained_are_counted(tmp_path: Path) -> None:
    folder = random(WIDE, tmp_path / "a")
    norms = deep(folder)
    assert [norms[name].still for name in norms] == [1, 1]
    said = run("inspect", folder, "--deep").out
    assert "The change of 2 of 6 experts is zero in" in said
    assert f"{EXPERTS}.base_layer" in said
    found = at.inspect(folder, deep=True)
    page = _page.page(found, _heat.heat(found.norms or ()))
    assert f"{EXPERTS}.base_layer" in page


def test_damage_is_said_of_its_own_parameter(tmp_path: Path) -> None:
    folder = Path(changed(tmp_path, WIDE).folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(n for n in tensors if ".base_layer.lora_A" in n)
    tensors[name][0, 0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    norms = deep(folder)
    assert "NaN" in norms[f"{EXPERTS}.base_layer"].why
    check(norms[EXPERTS], expected(HERE / WIDE)[f"{EXPERTS}.down_proj"])
