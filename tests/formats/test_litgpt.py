"""LitGPT with what we write says what PEFT says with what we read, and the way back is equal."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import adaptertools as at
from adaptertools.formats.peft import WEIGHTS
from tests.formats.litgpt_models import KINDS, Reader, folder
from tests.stacking import made, together

# Settings of a LoRA, and whether the way back gives the same tensors.
ALL: dict[str, Any] = {
    "target_modules": "all-linear", "lora_alpha": 5, "use_rslora": True, "r": 4,
    "rank_pattern": {"dense|o_proj": 6}, "alpha_pattern": {"dense|o_proj": 7},
}  # fmt: skip
CASES = {
    "all": (ALL, False),
    "one layer": ({"layers_to_transform": [1], "lora_alpha": 8, "target_modules": "_"}, False),
    "plain": ({"lora_alpha": 8, "target_modules": "_"}, True),
}  # fmt: skip


def source(kind: str, case: str, path: Path) -> Path:
    lora, _ = CASES[case]
    names = {"llama": ["q_proj", "v_proj", "o_proj"], "qwen2": ["k_proj", "down_proj"],
             "phi3": ["qkv_proj", "gate_up_proj"], "neox": ["query_key_value", "dense"],
             "falcon": ["query_key_value", "dense_4h_to_h"]}  # fmt: skip
    wanted = lora["target_modules"]
    return made(KINDS[kind].base, path,
                **{**lora, "target_modules": names[kind] if wanted == "_" else wanted})  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_litgpt_reads_it(kind: str, case: str, tmp_path: Path) -> None:
    reader = Reader()
    adapter, base = source(kind, case, tmp_path / "in"), folder(tmp_path / "base", kind)
    at.convert(adapter, to="litgpt", out=tmp_path / "out", base=base)
    expected = together(KINDS[kind].base, [(adapter, 1.0)]).float()
    found = reader.logits(kind, tmp_path / "out")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    if case == "all":
        merged = reader.merged(kind, tmp_path / "out", base)
        torch.testing.assert_close(merged, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str, case: str, tmp_path: Path) -> None:
    adapter, base = source(kind, case, tmp_path / "in"), folder(tmp_path / "base", kind)
    report = at.convert(adapter, to="litgpt", out=tmp_path / "lit", base=base)
    at.convert(tmp_path / "lit", to="peft", out=tmp_path / "back")
    one, two = (together(KINDS[kind].base, [(tmp_path / n, 1.0)]) for n in ("in", "back"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-12 if case != "all" else 1e-5)
    assert (report.facts["exactness"] == "exact") == (case != "all")
    if CASES[case][1]:
        before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("in", "back"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
