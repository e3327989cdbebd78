"""Merging against PEFT in float64: variants of LoRA, tied weights, several adapters, real files."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from tests import kit
from tests.cases_recipe import Case
from tests.kit import CASES

torch.set_num_threads(1)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", Path(__file__).parents[3] / "shared" / "data"))

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
loadable = [case for case in CASES.values() if case.auto is not None]


def merge(case: Case, folder: Path, **options: Any) -> Path:
    """Merge a case with the package under test; returns the folder of the result."""
    paths = [str(path) for path in case.adapters(folder)]
    adapters = paths if len(paths) > 1 else paths[0]
    options = case.merge_options | options
    if case.scales:
        options["scale"] = list(case.scales) if len(paths) > 1 else case.scales[0]
    at.merge(adapters, base=str(folder / "base"), out=str(folder / "out"), **options)
    return folder / "out"


def check(case: Case, folder: Path, dtype: torch.dtype) -> None:
    """Merge and compare with the case's oracle."""
    out = merge(case, folder)
    if case.oracle == "forward":
        logits = kit.unmerged_logits(case, folder)
        kit.assert_same_logits(kit.merged_logits(case, out), logits, dtype)
        return
    expected = kit.reference(case, folder)
    ours = kit.renamed(kit.read(out), expected, kit.base_prefix(folder / "base"))
    if case.tolerance is None:
        kit.assert_within_one_ulp(ours, expected, dtype)
    else:
        kit.assert_close(ours, expected, dtype, case.tolerance)


@every_dtype
@every_case
def test_merge_is_what_peft_computes(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    case.build(tmp_path, dtype)
    check(case, tmp_path, dtype)


@pytest.mark.parametrize("case", loadable, ids=lambda case: case.name)
def test_result_loads_completely_and_runs_alike(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path, torch.float32)
    out = merge(case, tmp_path)
    before = kit.loading_info(case, tmp_path / "base", **case.options)
    ours = kit.loading_info(case, out)
    assert ours["missing_keys"] == set()
    assert ours["mismatched_keys"] == set()
    assert ours["unexpected_keys"] <= before["unexpected_keys"]
    logits = kit.unmerged_logits(case, tmp_path)
    kit.assert_same_logits(kit.merged_logits(case, out), logits, torch.float32, case.tolerance)


@every_case
def test_adapter_is_of_its_kind(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path, torch.float32)
    names = {name for path in case.adapters(tmp_path) for name in kit.read(path)}
    for ending in case.keys:
        assert any(name.endswith(ending) for name in names), f"no {ending} among {sorted(names)}"
    if case.oracle == "merge":
        base, expected = kit.read(tmp_path / "base"), kit.reference(case, tmp_path)
        same = [n for n, t in expected.items() if n in base and torch.equal(t, base[n].double())]
        assert len(same) < len(expected), "the adapter changes nothing"


def test_multihead_attention_needs_a_decision(tmp_path: Path) -> None:
    case = CASES["multihead_attention"]
    case.build(tmp_path, torch.float32)
    with pytest.raises(at.errors.Unsupported, match="out_proj"):
        at.merge(str(tmp_path / "adapter"), base=str(tmp_path / "base"), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@every_dtype
def test_multihead_attention_once(dtype: torch.dtype, tmp_path: Path) -> None:
    case, name = CASES["multihead_attention"], "mha.out_proj.weight"
    case.build(tmp_path, dtype)
    expected = kit.reference(case, tmp_path)
    expected[name] = (expected[name] + kit.read(tmp_path / "base")[name].double()) / 2
    out = merge(case, tmp_path, mha_out_proj="once")
    kit.assert_within_one_ulp(kit.read(out), expected, dtype)


def real_adapter(name: str, folder: Path) -> Path:
    """Copy a real adapter to `folder`, or skip."""
    source = DATA / "adapters" / name
    if not source.is_dir():
        pytest.skip(f"real adapters are not there: {source} (set ADAPTERTOOLS_DATA)")
    return Path(shutil.copytree(source, folder / "adapter"))


@pytest.mark.parametrize("case", kit.REAL.values(), ids=kit.REAL)
def test_real_adapter(case: Case, tmp_path: Path) -> None:
    real_adapter(case.name, tmp_path)
    case.build_base(tmp_path, torch.bfloat16)
    check(case, tmp_path, torch.bfloat16)
    assert kit.loading_info(case, tmp_path / "out")["missing_keys"] == set()
    shutil.rmtree(tmp_path / "out")  # large, and pytest keeps the folders of three runs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ulp_distance_counts_neighbours(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, -1.0, 0.0, -0.0, 1e-3, -3.25, 6e-8], dtype=dtype)
    above = torch.nextafter(values, torch.full_like(values, torch.inf))
    assert kit.ulp_distance(values, values).max() == 0
    assert set(kit.ulp_distance(values, above).tolist()) == {1}
    assert kit.ulp_distance(values[2:3], values[3:4]).item() == 0
    assert kit.ulp_distance(above[2:3], -above[2:3]).item() == 2


def test_rounding_happens_once() -> None:
    tie, little = 1 + 2**-8, 2**-40
    exact = torch.tensor([tie + little, tie, tie - little, -tie - little], dtype=torch.float64)
    rounded = kit.rounded_once(exact, torch.bfloat16)
    assert rounded.tolist() == [1 + 2**-7, 1, 1, -1 - 2**-7]


def test_one_wrong_element_is_reported() -> None:
    expected = {"layer.weight": torch.ones(2, 3, dtype=torch.float64)}
    ours = {"layer.weight": torch.ones(2, 3)}
    ours["layer.weight"][1, 2] += 3e-7
    with pytest.raises(AssertionError, match=r"weight\[1, 2\]: 1\.00000\d+ is 3 ulp from 1\.0"):
        kit.assert_within_one_ulp(ours, expected, torch.float32)
