"""Resizing against PEFT's own SVD and a dense one; what is lost is said before it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import adaptertools as at
from adaptertools.verbs._sources import source
from tests.cases_models import llama
from tests.cases_recipe import quiet
from tests.cli import contents, run
from tests.stacking import deltas, layers, loaded, loading, made

LINEAR = ["q_proj", "k_proj", "down_proj"]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    patterns = {"rank_pattern": {"k_proj": 9}, "alpha_pattern": {"down_proj": 5}}
    return made(llama(), tmp_path / "a", 3, target_modules=LINEAR, r=6, **patterns)


def test_truncation_is_pefts_svd(tmp_path: Path) -> None:
    one, two = (
        made(llama(), tmp_path / n, seed, target_modules=LINEAR, r=4, lora_alpha=4)
        for seed, n in enumerate("ab")
    )
    at.stack([one, two], weights=[1.0, 0.5], out=tmp_path / "all", dtype="float64")
    at.resize(tmp_path / "all", rank=3, out=tmp_path / "out", dtype="float64", verify=True)
    ours = deltas(llama(), [(tmp_path / "out", 1.0)])
    model = loaded(llama(), [(one, 1.0), (two, 1.0)])
    with quiet():
        how = {"combination_type": "svd", "svd_rank": 3, "svd_full_matrices": False}
        model.add_weighted_adapter(["0", "1"], [1.0, 0.5], "cut", **how)
    theirs = {name: layer.get_delta_weight("cut") for name, layer in layers(model).items()}
    assert ours.keys() == theirs.keys()
    for name, delta in theirs.items():
        assert (ours[name] - delta).norm() <= 1e-5 * delta.norm()  # PEFT's SVD is float32


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_truncation_is_the_nearest_of_its_rank(rank: int, adapter: Path, tmp_path: Path) -> None:
    report = at.resize(adapter, rank=rank, out=tmp_path / "out", dtype="float64")
    assert report.verb == "resize"
    before, after = source(at.open(adapter)), source(at.open(tmp_path / "out"))
    for said in report.facts["modules"]:
        whole = before.load(before.entries[said["target"]]).dense()
        kept = after.load(after.entries[said["target"]]).dense()
        s = np.linalg.svd(whole, compute_uv=False)
        assert np.linalg.norm(whole - kept) <= np.linalg.norm(s[rank:]) + 1e-12 * s[0]
        error = np.linalg.norm(whole - kept) / np.linalg.norm(whole)
        assert (1 - said["energy"]) ** 0.5 == pytest.approx(error, abs=1e-7)
        assert said["rank"] == min(rank, before.entries[said["target"]].rank)


def test_peft_loads_what_has_many_ranks(adapter: Path, tmp_path: Path) -> None:
    at.resize(adapter, rank="energy:0.7", out=tmp_path / "out")
    held = at.open(tmp_path / "out")
    assert len({entry.rank for entry in held.entries}) > 1
    assert at.open(tmp_path / "out").config["target_modules"] == sorted(LINEAR)
    said = loading(llama(), tmp_path / "out")
    assert (said.missing, said.unexpected) == ([], [])
    at.resize(adapter, rank="energy:0.7", out=tmp_path / "even", uniform_rank=True)
    even = at.open(tmp_path / "even")
    assert (even.config["rank_pattern"], {entry.rank for entry in even.entries}) == (
        {},
        {held.rank},
    )
    ours, padded = (deltas(llama(), [(tmp_path / n, 1.0)]) for n in ("out", "even"))
    norms = {name: torch.linalg.matrix_norm(d) for name, d in ours.items()}
    assert all((padded[n] - d).norm() <= 0.8 * norms[n] for n, d in ours.items())


def test_larger_ranks_lose_nothing_and_auto_finds_the_least(adapter: Path, tmp_path: Path) -> None:
    wide = made(llama(), tmp_path / "w", 3, target_modules=["q_proj"], r=6)
    at.stack([wide], out=tmp_path / "cat", how="cat", dtype="float64", uniform_rank=True)
    twin = Path(shutil.copytree(wide, tmp_path / "twin"))
    at.stack([wide, twin], weights=[0.5, 0.5], out=tmp_path / "twice", how="cat", dtype="float64")
    assert at.open(tmp_path / "twice").rank == 12
    at.resize(tmp_path / "twice", rank="auto", out=tmp_path / "out", dtype="float64")
    assert at.open(tmp_path / "out").rank == 6
    ours, expected = (deltas(llama(), [(tmp_path / n, 1.0)]) for n in ("out", "w"))
    for name, delta in expected.items():
        assert (ours[name] - delta).norm() <= 1e-13 * delta.norm()


def test_the_command_says_each_modules_error_before_it_writes(
    adapter: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    done = run("resize", adapter, "--rank", "3", "--out", tmp_path / "out", "--dry-run")
    assert (done.code, contents(tmp_path)) == (0, before)
    foreseen = done.out
    for entry in at.open(adapter).entries:
        assert entry.target in foreseen
    done = run("resize", adapter, "--rank", "3", "--out", tmp_path / "out")
    assert done.code == 0
    assert done.out.startswith(foreseen)
    assert "written" in done.out
    assert run("resize", adapter, "--rank", "3", "--out", tmp_path / "q", "-q").out == ""
    assert run("resize", adapter, "--out", tmp_path / "r").code == 2
