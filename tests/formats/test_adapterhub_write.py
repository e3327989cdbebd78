"""`adapters` loads what we write and computes what PEFT computes; the way back is equal."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, NotFound, Unsupported
from adaptertools.formats.peft import WEIGHTS
from tests.cases_recipe import quiet
from tests.formats.adapterhub_models import base, filled, outputs
from tests.formats.test_adapterhub import peft, saved

QV = ["q_proj", "v_proj"]
# Base, PEFT's config, and whether the way back gives the same tensors.
CASES: dict[str, tuple[str, Any, bool]] = {
    "plain": ("llama", LoraConfig(r=3, lora_alpha=6, target_modules=QV), True),
    "patterns": (
        "mistral",
        LoraConfig(
            r=3, lora_alpha=5, use_rslora=True, target_modules=[*QV, "k_proj", "up_proj"],
            rank_pattern={"up_proj": 5}, alpha_pattern={r"layers\.1\.mlp\.up_proj": 7},
        ),
        False,
    ),
    "one layer": ("bert", LoraConfig(
        r=2, lora_alpha=8, target_modules=["query", "intermediate.dense"], layers_to_transform=[1]),
        True),
    "uneven": ("bert", LoraConfig(r=2, target_modules=r".*(0.attention.self.key|1.output.dense)"),
               False),
    "gpt2": ("gpt2", LoraConfig(
        r=2, lora_alpha=3, fan_in_fan_out=True, target_modules=["c_attn", "c_fc"]), False),
    "ia3": ("llama", IA3Config(target_modules=["k_proj", "up_proj"], feedforward_modules=[]), True),
    "ia3-gpt2": ("gpt2", IA3Config(
        target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=[], fan_in_fan_out=True),
        True),
}  # fmt: skip


def source(case: str, folder: Path) -> Path:
    named, config, _ = CASES[case]
    with quiet():
        model = get_peft_model(base(named), config)
        filled(model, "lora_"), filled(model, "ia3_")
        model.peft_config["default"].base_model_name_or_path = f"tiny/{named}"
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_adapters_reads_it(case: str, tmp_path: Path) -> None:
    adapters = pytest.importorskip("adapters", reason="adapters is not installed")
    named = CASES[case][0]
    given, where = source(case, tmp_path / "in"), saved(named, tmp_path / "base")
    at.convert(given, to="adapterhub", out=tmp_path / "out", base=where)
    model = base(named)
    adapters.init(model)
    said: dict[str, Any] = {}
    label = model.load_adapter(str(tmp_path / "out"), loading_info=said, set_active=True)
    assert (label, said["missing_keys"], said["unexpected_keys"]) == ("default", [], [])
    torch.testing.assert_close(outputs(model.eval()), peft(named, given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, tmp_path: Path) -> None:
    named, _, equal = CASES[case]
    given, where = source(case, tmp_path / "in"), saved(named, tmp_path / "base")
    at.convert(given, to="adapterhub", out=tmp_path / "hub", base=where)
    report = at.convert(tmp_path / "hub", to="peft", out=tmp_path / "back")
    assert (report.facts["from"], report.facts["exactness"]) == ("adapterhub", "exact")
    torch.testing.assert_close(
        peft(named, tmp_path / "back"), peft(named, given), rtol=0, atol=1e-5
    )
    if equal:
        before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("in", "back"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_refused(tmp_path: Path) -> None:
    given, where = source("plain", tmp_path / "in"), saved("llama", tmp_path / "base")
    out = tmp_path / "out"
    with pytest.raises(NotFound, match=r"Pass the model as --base; only its config\.json is read"):
        at.convert(given, to="adapterhub", out=out)
    with pytest.raises(Unsupported, match="has no place there in a bert"):
        at.convert(given, to="adapterhub", out=out, base=saved("bert", tmp_path / "bert"))
    with pytest.raises(Unsupported, match="--rank 2: modules have rank 3"):
        at.convert(given, to="adapterhub", out=out, base=where, rank=2)
    with pytest.raises(Unsupported, match="letters, digits"):
        at.convert(given, to="adapterhub", out=out, base=where, options={"name": "a.b"})
    cases: list[tuple[Any, type[AdapterToolsError], str]] = [
        (LoraConfig(target_modules=["o_proj"]), Unsupported, "has no place there in a llama"),
        (LoraConfig(target_modules=QV, use_dora=True), Unsupported, "cannot hold DoRA"),
        (IA3Config(target_modules=["up_proj"], feedforward_modules=["up_proj"]), Unsupported,
         "AdapterHub scales outputs"),
    ]  # fmt: skip
    for number, (config, error, match) in enumerate(cases):
        with quiet():
            get_peft_model(base("llama"), config).save_pretrained(tmp_path / str(number))
        with pytest.raises(error, match=match):
            at.convert(tmp_path / str(number), to="adapterhub", out=out, base=where)
    assert not list(tmp_path.glob("out*"))
