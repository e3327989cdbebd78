"""Closed forms that need the base: to float64's rounding where PEFT's own maths is float64."""

import dataclasses
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import adaptertools as at
from adaptertools.errors import Unsupported
from tests import kit
from tests.as_lora import CASES, off, updates, written
from tests.cases_recipe import Case, quiet

torch.set_num_threads(1)

FLOAT64 = ["HRA linear", "HRA biased", "HRA conv2d orthogonal", "PEANUT biased", "DELORA linear",
           "GRALORA linear hybrid", "LOHA linear", "LOKR linear low", "MISS linear"]  # fmt: skip


@pytest.mark.parametrize("name", FLOAT64)
def test_to_the_last_digits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    out = tmp_path / "out"
    at.convert(
        tmp_path / "adapter", to="plain", out=out, base=tmp_path / "base", dtype="float64"
    )  # fmt: skip
    theirs, ours = updates(case, tmp_path), written(case, tmp_path, out)
    assert ours.keys() == theirs.keys()
    for tensor, change in theirs.items():
        assert off(ours[tensor], change) < 1e-13, tensor


def test_the_base_is_asked_for_where_it_is_needed(tmp_path: Path) -> None:
    for name, base in (("DELORA linear", False), ("GRALORA biased", False), ("HRA linear", True)):
        folder = tmp_path / name
        CASES[name].build(folder, torch.float32)
        if base:
            with pytest.raises(Unsupported, match=r"HRA: .*--base"):
                at.convert(folder / "adapter", to="plain", out=folder / "out")
        else:
            at.convert(folder / "adapter", to="plain", out=folder / "out")
        assert (folder / "out").exists() is not base


def begun(init: str, name: str = "attention_llama") -> Case:
    """Give a case whose training begins with factors of the base."""
    case = kit.CASES[name]
    return dataclasses.replace(case, loras=({**case.loras[0], "init_lora_weights": init},))


@pytest.mark.parametrize(
    ("init", "name"),
    [("pissa", "attention_llama"), ("pissa", "conv1d_gpt2"), ("pissa", "rslora_patterns"),
     ("olora", "attention_llama"), ("olora", "linear_llama")],
)  # fmt: skip
def test_what_training_took_out_of_the_base(init: str, name: str, tmp_path: Path) -> None:
    """PEFT takes it out anew, in float32, when it loads the adapter beside the base."""
    case, logits = begun(init, name), []
    case.build(tmp_path, torch.float32)
    report = at.convert(
        tmp_path / "adapter", to="plain", out=tmp_path / "out", base=tmp_path / "base"
    )  # fmt: skip
    assert [finding.code for finding in report.findings] == ["CNV013", "CNV015"]
    most = max(entry.rank for entry in at.open(tmp_path / "adapter").entries)
    assert at.open(tmp_path / "out").rank == 2 * most
    for folder in ("adapter", "out"):
        with quiet():
            base = case.load_base(tmp_path, torch.float32)
            model = PeftModel.from_pretrained(base, tmp_path / folder).double().eval()
            logits.append(kit.forward_logits(model))
    theirs, ours = logits
    assert (ours - theirs).abs().max() < 3e-5 * theirs.abs().max()
    plain = kit.forward_logits(case.load_base(tmp_path, torch.float64))
    assert (theirs - plain).abs().max() > 0.1, "the adapter does nothing"


def test_a_random_factorisation_is_refused(tmp_path: Path) -> None:
    case = begun("pissa_niter_4")
    case.build(tmp_path, torch.float32)
    with pytest.raises(Unsupported, match=r"pissa_niter_4.*random.*path_initial_model"):
        at.convert(
            tmp_path / "adapter", to="plain", out=tmp_path / "out", base=tmp_path / "base",
            allow_lossy=True,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
