"""Comparing and resizing fused-expert adapters, against what their releases merge, in float64."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adaptertools as at
from tests.cli import run
from tests.verbs.test_experts import HERE, SQUARE
from tests.verbs.test_merge_experts import expected
from tests.verbs.test_stack_experts import WIDE, base_of, merged, random

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")
pytest.importorskip("peft", minversion="0.21")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def flat(deltas: dict[str, Any]) -> Any:
    return np.concatenate([deltas[name].ravel() for name in sorted(deltas)])


def cosine(one: Any, two: Any) -> float:
    return float((one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two))


def test_two_releases_compare_as_what_they_merge(tmp_path: Path) -> None:
    base = base_of("qwen3_moe-square", tmp_path / "base")
    old, new = HERE / "0.19.0/qwen3_moe-square", HERE / SQUARE
    found = at.compare([old, new], base=base, samples=10_000)
    one, two = map(expected, (old, new))
    assert found.pairs[0].cosine == pytest.approx(cosine(flat(one), flat(two)), abs=1e-12)
    assert [side.norm for side in found.adapters] == pytest.approx(
        [np.linalg.norm(flat(one)), np.linalg.norm(flat(two))], rel=1e-12
    )
    assert len(found.modules) == 6
    for module in found.modules:
        stem, number, parameter = module.target.rsplit(".", 2)
        a, b = (each[f"{stem}.{parameter}"][int(number)] for each in (one, two))
        assert module.norms == pytest.approx([np.linalg.norm(a), np.linalg.norm(b)], rel=1e-12)
        assert module.pairs[0].cosine == pytest.approx(cosine(a, b), abs=1e-12)
        clash = float((np.sign(a) * np.sign(b) < 0).mean())
        assert module.pairs[0].conflict.value == pytest.approx(clash)


def test_adapters_of_one_layout_compare_without_a_base(tmp_path: Path) -> None:
    base, other = base_of("qwen3_moe-wide", tmp_path / "base"), random(WIDE, tmp_path / "b")
    found = at.compare([HERE / WIDE, other])
    named = at.compare([HERE / WIDE, other], base=base)
    wanted = cosine(flat(expected(HERE / WIDE)), flat(merged(base, other)))
    assert found.pairs[0].cosine == pytest.approx(wanted, abs=1e-12)
    assert named.pairs[0].cosine == pytest.approx(wanted, abs=1e-12)
    silent = sorted(m.target for m in found.modules if m.ranks[1] == 0)
    assert silent == ["model.layers.0.mlp.experts.1", "model.layers.0.mlp.experts.base_layer.1"]


def test_one_adapter_takes_another_rank_without_a_base(tmp_path: Path) -> None:
    report = at.resize(HERE / WIDE, out=tmp_path / "out", rank=1, dtype="float64", verify=True)
    found = merged(base_of("qwen3_moe-wide", tmp_path / "base"), tmp_path / "out")
    kept = total = 0.0
    for name, values in expected(HERE / WIDE).items():
        for expert, delta in enumerate(values):
            u, s, v = np.linalg.svd(delta)
            np.testing.assert_allclose(found[name][expert], s[0] * np.outer(u[:, 0], v[0]),
                                       atol=1e-12)  # fmt: skip
            kept, total = kept + s[0] ** 2, total + (s**2).sum()
    assert report.facts["energy"] == pytest.approx(kept / total, rel=1e-12)


def test_the_commands_take_a_base_and_a_packing(tmp_path: Path) -> None:
    base = str(base_of("qwen3_moe-square", tmp_path / "base"))
    old, new = str(HERE / "0.18.1/qwen3_moe-square"), str(HERE / SQUARE)
    every = ["--base", base, "--expert-packing", "peft"]

    def said(*words: str) -> Any:
        done = run(*words, *every)
        assert done.code == 0, done.err
        return done.out

    shown = said("compare", old, new)
    assert "down_proj" in shown
    assert "gate_up_proj" in shown
    report = json.loads(said("stack", old, f"{new}=-1", "--out", str(tmp_path / "s"), "--json"))
    assert len(report["facts"]["modules"]) == 6
    assert "6 modules, rank 1" in said("resize", new, "--rank", "1", "--out", str(tmp_path / "r"))
