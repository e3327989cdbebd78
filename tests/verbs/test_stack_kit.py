"""Stacks of the kit's and of real adapters: PEFT's model of the stack is its model of the parts."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import adaptertools as at
from adaptertools.verbs._sources import source
from tests import kit
from tests.cases_recipe import Case, quiet
from tests.kit import CASES

torch.set_num_threads(1)

DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = sorted(kit.REAL)

ODD = (
    "adapter_bfloat16_gpt2", "adapter_without_prefix", "bdlora", "bias_all_head",
    "conv1d_gpt2_head", "head_llama_over_lm_head", "monteclora", "one_scaled_bias",
    "patterns_shadowed", "replicated", "resized_targets", "save_resized", "tied_both",
    "tied_ensured", "tied_ensured_embedding", "tied_save_ensured", "token_head_bert",
    "tokens_both", "two_scaled_gpt2",
)  # fmt: skip


def stacked(case: Case, folder: Path, adapter: Path) -> torch.Tensor:
    """The logits of PEFT's model with one adapter."""
    with quiet():
        base = case.load_base(folder, case.load_dtype)
        return kit.forward_logits(PeftModel.from_pretrained(base, adapter).double().eval())


@pytest.mark.parametrize("name", ODD)
def test_odd_adapters(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    weights = list(case.scales) or None
    at.stack(case.adapters(tmp_path), weights=weights, out=tmp_path / "out", dtype="float64")
    expected = kit.unmerged_logits(case, tmp_path)
    kit.assert_same_logits(stacked(case, tmp_path, tmp_path / "out"), expected, torch.float32)


@pytest.mark.parametrize("name", REAL)
def test_half_of_a_real_adapter_twice_is_itself(name: str, tmp_path: Path) -> None:
    if not (DATA / "adapters" / name).is_dir():
        pytest.skip(f"real adapters are not in {DATA} (set ADAPTERTOOLS_DATA)")
    one, two = (Path(shutil.copytree(DATA / "adapters" / name, tmp_path / n)) for n in "ab")
    report = at.stack([one, two], weights=[0.5, 0.5], out=tmp_path / "adapter", verify=True)
    before, after = source(at.open(one)), source(at.open(tmp_path / "adapter"))
    assert after.entries.keys() == before.entries.keys()
    for target, entry in before.entries.items():
        wanted = before.load(entry).dense()
        off = abs(after.load(after.entries[target]).dense() - wanted).max()
        assert off <= 3e-7 * abs(wanted).max(), target
        assert after.entries[target].rank <= entry.rank
    assert [f.code for f in report.findings if f.level != "note"] == []
    if "gpt2" in name or "gurvineet" in name:
        return  # 124 million weights in float64: the small ones say as much
    case = kit.REAL[name]
    case.build_base(tmp_path, torch.bfloat16)
    expected = stacked(case, tmp_path, one)
    ours = stacked(case, tmp_path, tmp_path / "adapter")
    kit.assert_same_logits(ours, expected, torch.float32, 1e-5)
