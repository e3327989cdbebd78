"""Every method as a LoRA: its update is the one that PEFT merges in float64, or it is refused."""

from pathlib import Path

import pytest
import torch

import adaptertools as at
from adaptertools import plugins
from adaptertools.errors import Unsupported
from adaptertools.methods._lora_forms import LORA_FORMS
from tests.as_lora import CASES, FIRST, NEVER, SOME, off, updates, written

torch.set_num_threads(1)


def test_there_is_a_case_of_every_method() -> None:
    methods = {name.upper() for name in plugins.names("methods")} - {"LORA"}
    assert {CASES[n].peft_types[0] for n in (*SOME, *NEVER)} == methods


@pytest.mark.parametrize("name", SOME)
def test_all_of_it(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    report = at.convert(
        tmp_path / "adapter", to="peft", out=tmp_path / "out", base=tmp_path / "base",
        allow_lossy=True, rank="auto",
    )  # fmt: skip
    assert report.facts["exactness"] in ("exact", "exact up to dtype")
    assert at.open(tmp_path / "out").method == "LORA"
    theirs, ours = updates(case, tmp_path), written(case, tmp_path, tmp_path / "out")
    assert ours.keys() == theirs.keys()
    for tensor, change in theirs.items():
        assert off(ours[tensor], change) <= max(10 * (case.tolerance or 0), 2e-6), tensor


@pytest.mark.parametrize("name", NEVER)
def test_what_no_lora_can_be(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    for lossy in (False, True):
        with pytest.raises(Unsupported, match=f"type {case.peft_types[0]}, which no LoRA can"):
            at.convert(
                tmp_path / "adapter", to="plain", out=tmp_path / "out", base=tmp_path / "base",
                allow_lossy=lossy,
            )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FIRST)
def test_nothing_is_lost_unasked(name: str, tmp_path: Path) -> None:
    """What `ls methods` calls exact is written without --allow-lossy, and nothing else is."""
    case, kind = CASES[name], CASES[name].peft_types[0]
    case.build(tmp_path, torch.float32)
    how = {"to": "plain", "out": tmp_path / "out", "base": tmp_path / "base"}
    if LORA_FORMS[kind].startswith("exactly") and name != "LOKR line":
        assert at.convert(tmp_path / "adapter", **how).facts["exactness"] != "approximate"
        return
    with pytest.raises(Unsupported, match=r"full rank.*--allow-lossy.*--dry-run"):
        at.convert(tmp_path / "adapter", **how)
    assert not (tmp_path / "out").exists()
