"""Scales, checks and doubts of methods that say much with few numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import adaptertools as at
from adaptertools import probe
from adaptertools.probe_values import recomputed
from adaptertools.tensorfile import read_header
from tests import cases_methods_framed, cases_methods_sparse, kit
from tests.cases_methods import MethodCase, every

torch.set_num_threads(1)

TABLES = (*cases_methods_sparse.METHODS, *cases_methods_framed.METHODS)
OURS = sorted({group[0].peft_types[0] for group in TABLES})
CASES = {name: case for name, case in every().items() if name.split()[0] in OURS}
LINEAR = [CASES[f"{name} linear"] for name in OURS] + [CASES["MISS linear bat"]]


def merged(case: MethodCase, folder: Path, out: str, **options: object) -> kit.Tensors:
    at.merge(folder / "adapter", base=folder / "base", out=folder / out, **options)
    return kit.read(folder / out)


@pytest.mark.parametrize("case", LINEAR, ids=[case.name for case in LINEAR])
def test_scale_multiplies_the_change(case: MethodCase, tmp_path: Path) -> None:
    case.build(tmp_path, torch.float32)
    base, whole = kit.read(tmp_path / "base"), merged(case, tmp_path, "whole")
    part = merged(case, tmp_path, "part", scale=-0.5)
    for name, tensor in base.items():
        wanted = tensor.double() - 0.5 * (whole[name].double() - tensor.double())
        assert (part[name].double() - wanted).abs().max() <= 4e-7 * (1 + tensor.abs().max()), name


PROBED = ["SHIRA linear", "SUPERTUNING linear supra", "WAVEFT linear plain", "MISS linear bat",
          "FROD linear", "FROD conv1d", "OSF linear", "GRALORA conv1d"]  # fmt: skip


@pytest.mark.parametrize("name", PROBED)
def test_check_has_arithmetic_of_its_own_and_sees_what_is_wrong(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    merged(case, tmp_path, "out")
    plan = at.plan(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "again", scale=1.01)
    written = read_header(tmp_path / "out/model.safetensors").tensors
    edits = [edit for edit in plan.edits if edit.updates]
    assert edits
    for edit in edits:
        assert not recomputed(edit)
        assert probe.applied(edit, written[edit.name]) != ""
    right = at.plan(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "again")
    assert {probe.applied(e, written[e.name]) for e in right.edits if e.updates} == {""}


def test_psoft_says_what_its_file_leaves_open(tmp_path: Path) -> None:
    CASES["PSOFT linear"].build(tmp_path, torch.float32)
    plan = at.plan(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "out")
    found = [f for f in plan.findings if f.code == "MRG050"]
    assert [f.level for f in found] == ["warning"]
    assert "signs of the base's singular vectors" in found[0].text


def test_indices_in_the_order_of_magnitudes(tmp_path: Path) -> None:
    config = {**CASES["SUPERTUNING linear"].loras[0], "save_precomputed_indices": False}
    case = replace(CASES["SUPERTUNING linear"], loras=(config,))
    case.build(tmp_path, torch.float32)
    kit.assert_within_one_ulp(
        merged(case, tmp_path, "out"), kit.reference(case, tmp_path), torch.float32
    )


def test_two_squares_in_the_order_given(tmp_path: Path) -> None:
    one, two = (CASES[f"MISS linear{x}"].loras[0] for x in (" bat", ""))
    case = replace(CASES["MISS linear bat"], loras=(one, {**one, "r": 4}, two))
    case.build(tmp_path, torch.float32)
    paths = case.adapters(tmp_path)
    at.merge(paths, base=tmp_path / "base", out=tmp_path / "out")
    expected = {n: t.double() for n, t in kit.read(tmp_path / "base").items()}
    for path in paths:
        single = replace(case, loras=case.loras[:1])
        model = single.load_base(tmp_path, torch.float64)
        model.load_state_dict(expected)
        with kit.quiet():
            loaded = PeftModel.from_pretrained(model, path).double()
            expected |= kit.saved_tensors(loaded.merge_and_unload())
    kit.assert_within_one_ulp(kit.read(tmp_path / "out"), expected, torch.float32)
