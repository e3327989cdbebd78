"""Methods other than LoRA in a stack: exact where their tensors tell, refused by name elsewhere."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

import adaptertools as at
from adaptertools.verbs._sources_forms import FACTORED, WIDTHLESS
from tests import kit
from tests.cases_methods import MethodCase, every
from tests.cases_models import llama
from tests.cases_recipe import quiet
from tests.stacking import made

torch.set_num_threads(1)

CASES = every()
KNOWN = (*FACTORED, *WIDTHLESS)
EXACT = [n for n, c in CASES.items() if c.peft_types[0] in KNOWN and c.auto and "bat" not in n]
KERNEL = ("LOHA line tucker", "LOKR conv2d")
FLAT = (
    "LOHA conv2d", "LOHA conv2d tucker", "LOHA line", "LOKR conv2d low", "LOKR conv2d tucker",
    "LOKR line low",
)  # fmt: skip
OTHERS = {c.peft_types[0]: n for n, c in CASES.items() if c.peft_types[0] not in KNOWN}


@pytest.mark.parametrize("name", EXACT)
def test_it_does_what_pefts_does(name: str, tmp_path: Path) -> None:
    case: MethodCase = CASES[name]
    case.build(tmp_path, torch.float32)
    base = tmp_path / "base" if case.peft_types[0] in WIDTHLESS else None
    report = at.stack(
        case.adapters(tmp_path), out=tmp_path / "out", dtype="float64", verify=True, base=base
    )
    codes = ["STK007"] if case.peft_types[0] in ("LOHA", "LOKR") else []
    assert [f.code for f in report.findings] == codes
    assert at.open(tmp_path / "out").method == "LORA"
    expected = kit.unmerged_logits(case, tmp_path)
    with quiet():
        model = case.load_base(tmp_path, case.load_dtype)
        model = PeftModel.from_pretrained(model, tmp_path / "out").double().eval()
        ours = kit.forward_logits(model)
    kit.assert_same_logits(ours, expected, torch.float32, case.tolerance)


@pytest.mark.parametrize("name", [*KERNEL, *FLAT])
def test_convolutions_whose_kernel_is_told(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    base_ = tmp_path / "base" if name in FLAT else None
    out = tmp_path / "adapter-lora"
    said = at.stack(case.adapters(tmp_path), out=out, dtype="float64", base=base_).findings
    assert said == ()
    assert all(len(e.parts["lora_A"].shape) > 2 for e in at.open(out).entries)
    for adapter, out in ((case.adapters(tmp_path)[0], "one"), (tmp_path / "adapter-lora", "two")):
        at.merge(adapter, base=tmp_path / "base", out=tmp_path / out)
    one, two, base = (kit.read(tmp_path / each) for each in ("one", "two", "base"))
    assert any(not torch.equal(base[n], tensor) for n, tensor in one.items())
    for tensor, value in one.items():
        assert torch.allclose(two[tensor], value, rtol=0, atol=1e-6), tensor


def test_a_loha_and_a_lora_add_up(tmp_path: Path) -> None:
    case = CASES["LOHA linear"]
    case.build(tmp_path, torch.float32)
    loha = tmp_path / "adapter"
    lora = made(llama(), tmp_path / "lora", 3, target_modules=["q_proj", "up_proj"])
    held, weights = [str(loha), str(lora)], [0.5, -1.25]
    at.stack(held, weights=weights, out=tmp_path / "out", dtype="float64", base_check="off")
    at.merge(str(tmp_path / "out"), base=tmp_path / "base", out=tmp_path / "one")
    at.merge(held, scale=weights, base=tmp_path / "base", out=tmp_path / "two")
    one, two = kit.read(tmp_path / "one"), kit.read(tmp_path / "two")
    for tensor, value in two.items():
        assert torch.allclose(one[tensor], value, rtol=0, atol=3e-7), tensor


@pytest.mark.parametrize("kind", WIDTHLESS)
def test_width_comes_from_the_base(kind: str, tmp_path: Path) -> None:
    case = CASES[f"{kind} linear"]
    case.build(tmp_path, torch.float32)
    with pytest.raises(at.errors.Unsupported, match="--base"):
        at.stack([tmp_path / "adapter"], out=tmp_path / "out")
    CASES["LOKR conv2d"].build_base(tmp_path / "other", torch.float32)
    other = tmp_path / "other" / "base"
    with pytest.raises(at.errors.Mismatch, match="no model"):
        at.stack([tmp_path / "adapter"], out=tmp_path / "out", base=other)
    assert not (tmp_path / "out").exists()


def test_a_base_of_other_sizes_is_refused(tmp_path: Path) -> None:
    lora = made(llama(), tmp_path / "lora", 3, target_modules=["q_proj"])
    CASES["LOHA biased"].build_base(tmp_path, torch.float32)
    with pytest.raises(at.errors.Mismatch, match="--base"):
        at.stack([lora], out=tmp_path / "out", base=tmp_path / "base")


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_others_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    case = CASES[OTHERS[kind]]
    case.build(tmp_path, torch.float32)
    with pytest.raises(at.errors.UnknownMethod, match=f"of type {kind}"):
        at.stack([tmp_path / "adapter"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
