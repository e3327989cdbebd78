"""What a stack is worth, in dense float64: ranks, energies, survival, rounding, saved tensors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptertools as at
from adaptertools.verbs import _stack_run
from adaptertools.verbs._sources import source
from tests.tiny_llama import noise, read, save_lora

MODULES = ("model.layers.0.q_proj", "model.layers.0.v_proj", "model.layers.1.q_proj")
SHAPES = dict(zip(MODULES, ((20, 16), (12, 16), (20, 16)), strict=True))
Dense = dict[str, "np.ndarray[Any, Any]"]


def lora(folder: Path, seed: int, rank: int = 4, modules: Any = MODULES, **config: Any) -> Path:
    """Write a random LoRA whose singular values fall."""
    fall = torch.tensor([0.5**i for i in range(rank)])
    pairs = {
        m: (
            noise(rank, SHAPES[m][1], seed=seed + 10 * i) * fall[:, None],
            noise(SHAPES[m][0], rank, seed=seed + 10 * i + 5),
        )
        for i, m in enumerate(modules)
    }
    return save_lora(folder, Path("tiny/base"), pairs, **config)


def dense(folder: Path) -> Dense:
    """Every update as a matrix, by the package's own reader."""
    held = source(at.open(folder))
    return {target: held.load(entry).dense() for target, entry in held.entries.items()}


def summed(*parts: tuple[Path, float]) -> Dense:
    total: Dense = {}
    for folder, weight in parts:
        for target, delta in dense(folder).items():
            total[target] = total.get(target, 0) + weight * delta
    return total


def off(ours: Dense, expected: Dense) -> float:
    """The largest relative error of any module."""
    assert ours.keys() == expected.keys()
    return max(
        float(np.linalg.norm(ours[t] - expected[t]) / np.linalg.norm(expected[t])) for t in ours
    )


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two adapters, one of them on fewer modules."""
    return lora(tmp_path / "a", 1), lora(tmp_path / "b", 2, rank=3, modules=MODULES[:2])


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_rounding_is_the_only_error_and_is_told(
    dtype: str, two: tuple[Path, Path], tmp_path: Path
) -> None:
    report = at.stack(two, weights=[0.7, -1.2], out=tmp_path / "out", dtype=dtype, verify=True)
    expected, ours = summed((two[0], 0.7), (two[1], -1.2)), dense(tmp_path / "out")
    for said in report.facts["modules"]:
        target = said["target"]
        error = np.linalg.norm(ours[target] - expected[target]) / np.linalg.norm(expected[target])
        assert error <= max(said["rounding"] * (1 + 1e-6), 1e-14)
        assert error >= said["rounding"] * (1 - 1e-6) - 1e-14
    assert off(ours, expected) <= {"float64": 1e-14, "float32": 2e-7}.get(dtype, 2e-2)
    assert report.facts["energy"] == 1.0
    assert {t.dtype for t in read(tmp_path / "out").values()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_truncation_is_the_best_there_is_and_its_energy_is_told(
    rank: int, two: tuple[Path, Path], tmp_path: Path
) -> None:
    report = at.stack(two, out=tmp_path / "out", rank=rank, dtype="float64", verify=True)
    expected, ours = summed((two[0], 1.0), (two[1], 1.0)), dense(tmp_path / "out")
    for said in report.facts["modules"]:
        whole, kept = expected[said["target"]], ours[said["target"]]
        s = np.linalg.svd(whole, compute_uv=False)
        best = np.linalg.norm(s[rank:])
        assert np.linalg.norm(whole - kept) <= best + 1e-12 * s[0]
        assert said["energy"] == pytest.approx((s[:rank] ** 2).sum() / (s**2).sum(), rel=1e-12)
        u, _, vt = np.linalg.svd(kept)
        for each, folder in (("a", two[0]), ("b", two[1])):
            part = dense(folder).get(said["target"])
            if part is not None:
                core = u[:, :rank].T @ part @ vt[:rank].T
                cosine = np.linalg.norm(core) / np.linalg.norm(part)
                assert said["survival"][str(two[0].parent / each)] == pytest.approx(cosine)


def test_energy_max_budget_and_uniform_ranks(two: tuple[Path, Path], tmp_path: Path) -> None:
    def ranks(**how: Any) -> list[int]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        report = at.stack(two, out=tmp_path / "out", **how)
        assert report.facts["parameters"] == sum(
            m["rank"] * sum(m["shape"]) for m in report.facts["modules"]
        )
        return [m["rank"] for m in report.facts["modules"]]

    spectra = [
        np.linalg.svd(d, compute_uv=False) for d in summed((two[0], 1), (two[1], 1)).values()
    ]
    assert ranks() == [7, 7, 4]
    assert ranks(rank="max") == [4, 4, 4]
    assert ranks(uniform_rank=True) == [7, 7, 7]
    shares = [np.cumsum(s**2) / (s**2).sum() for s in spectra]
    for share in (0.5, 0.9, 0.99):
        wanted = [int((s < share).sum()) + 1 for s in shares]
        assert ranks(rank=f"energy:{share}") == wanted
        assert ranks(rank=f"energy:{share}", uniform_rank=True) == [max(wanted)] * 3
    costs = [sum(shape) for shape in SHAPES.values()]
    best = best_ranks(spectra, costs, 3 * sum(costs))
    assert ranks(rank="budget:3") == best
    assert ranks(max_rank=5, allow_lossy=True) == [5, 5, 4]


def best_ranks(spectra: list[Any], costs: list[int], budget: int) -> list[int]:
    """The ranks that keep most energy within a budget, by trying all."""
    tries = [(a, b, c) for a in range(8) for b in range(8) for c in range(5)]
    fits = [t for t in tries if sum(np.multiply(t, costs)) <= budget]
    return list(
        max(fits, key=lambda t: sum((s[:k] ** 2).sum() for s, k in zip(spectra, t, strict=True)))
    )


def test_weights_of_modules_and_of_layers(two: tuple[Path, Path], tmp_path: Path) -> None:
    rules = {"*": 2.0, "b@*.layers.{0-15}.v_proj": 0.5, f"{two[0]}@*layers.1.*": 0.0}
    report = at.stack(two, out=tmp_path / "out", weight=rules, dtype="float64")
    a, b = dense(two[0]), dense(two[1])
    expected = {MODULES[0]: 2 * a[MODULES[0]] + 2 * b[MODULES[0]],
                MODULES[1]: 2 * a[MODULES[1]] + 0.5 * b[MODULES[1]]}  # fmt: skip
    assert off(dense(tmp_path / "out"), expected) <= 1e-14
    assert len(report.facts["options"]["weight"]) == 3
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(expected), "a short name would stand for layer 1 too"


def test_what_cancels_is_left_out(two: tuple[Path, Path], tmp_path: Path) -> None:
    twin = Path(shutil.copytree(two[0], tmp_path / "twin"))
    report = at.stack([two[0], twin, two[1]], weights=[1.5, -1.5, 1.0], out=tmp_path / "out")
    assert [f.code for f in report.findings] == ["STK010", "STK011", "STK011", "STK013"]
    assert off(dense(tmp_path / "out"), dense(two[1])) <= 2e-7


@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.floats(-2, 2).filter(lambda w: abs(w) > 1e-3), min_size=3, max_size=3))
def test_order_and_nesting_do_not_matter(
    weights: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("nested")
    one, two, three = (lora(folder / n, i, rank=i + 2) for i, n in enumerate("abc"))
    x, y, z = weights
    at.stack([one, two, three], weights=weights, out=folder / "all", dtype="float64")
    at.stack([three, one, two], weights=[z, x, y], out=folder / "turned", dtype="float64")
    at.stack([one, two], weights=[x, y], out=folder / "inner", dtype="float64")
    at.stack([folder / "inner", three], weights=[1, z], out=folder / "outer", dtype="float64")
    whole = dense(folder / "all")
    assert off(dense(folder / "turned"), whole) <= 1e-12
    assert off(dense(folder / "outer"), whole) <= 1e-12


def test_a_dry_run_says_the_same_and_writes_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    seen: list[int] = []
    dry = at.stack(two, out=tmp_path / "out", rank=2, dry_run=True, progress=seen.append)
    assert not (tmp_path / "out").exists()
    assert sum(seen) == sum(at.open(each).nbytes for each in two)
    real = at.stack(two, out=tmp_path / "out", rank=2)
    assert {**real.facts, "dry_run": True} == {**dry.facts, "bytes": real.facts["bytes"]}


def test_damage_on_the_way_to_the_disk_is_found(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(_stack_run.Writer):
        def add(self, name: str, dtype: str, values: Any) -> None:
            super().add(name, dtype, values * (1.001 if "layers.1" in name else 1))

    monkeypatch.setattr(_stack_run, "Writer", Careless)
    with pytest.raises(at.errors.Unreadable, match=r"layers\.1\.q_proj"):
        at.stack(two, out=tmp_path / "out", verify=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
