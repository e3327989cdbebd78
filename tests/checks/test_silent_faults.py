"""Faults that PEFT loads without error or warning, with another output: what validate says of each.

PEFT is the oracle twice: it makes the adapter, and it shows that the fault is silent and changes
what the model computes.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import adaptertools as at
from adaptertools.report import Report
from tests.cases_recipe import quiet

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANK, ALPHA, LAYERS = 4, 8, 3
TOKENS = torch.arange(12).reshape(2, 6)


def gpt2(layers: int) -> GPT2LMHeadModel:
    """Make a base whose first layers are the same, however many there are."""
    config = GPT2Config(n_embd=16, n_layer=layers, n_head=2, n_positions=16, vocab_size=64)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            seed = sum(map(ord, name))
            generator = torch.Generator().manual_seed(seed)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def trained(layers: int, folder: Path) -> Path:
    """Write an adapter whose B is not zero."""
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(gpt2(layers), config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write bases and sound adapters for them."""
    root = tmp_path_factory.mktemp("made")
    with quiet():
        for layers in (LAYERS, LAYERS + 2):
            gpt2(layers).save_pretrained(root / f"base{layers}")
            trained(layers, root / f"adapter{layers}")
    return root


def output(base: Path, adapter: Path) -> tuple[torch.Tensor, list[str]]:
    """Load with PEFT; give logits, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        model = GPT2LMHeadModel.from_pretrained(base).eval()
        logits = PeftModel.from_pretrained(model, adapter).eval()(TOKENS).logits
    old = (FutureWarning, DeprecationWarning)  # what libraries say of each other
    return logits, [str(w.message) for w in caught if not issubclass(w.category, old)]


def said(**changes: Any) -> Callable[[Path], None]:
    """Change keys of the config."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def untrained(folder: Path) -> None:
    """Set every lora_B to zero."""
    held = load_file(folder / WEIGHTS)
    zero = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in held.items()}
    save_file(zero, folder / WEIGHTS, {"format": "pt"})


def untouched(folder: Path) -> None:
    """Leave it as it is."""


@dataclass(frozen=True)
class Fault:
    """One fault, and what it is caught by."""

    change: Callable[[Path], None]
    code: str
    level: str
    layers: int = LAYERS  # of the base that it was trained on
    needs: dict[str, Any] = field(default_factory=dict)  # what validate must be given to see it


BASE: dict[str, Any] = {"base": True}
# validation.md counts eight; alpha is here twice, because how far it is off decides who sees it.
FAULTS = {
    "alpha": Fault(said(lora_alpha=80), "WGT020", "note"),
    "alpha, far too large": Fault(said(lora_alpha=800), "CFG016", "note"),
    "alpha_pattern": Fault(said(alpha_pattern={"c_attn": 64}), "WGT020", "note"),
    "rslora": Fault(said(use_rslora=True), "WGT020", "note"),
    "targets are a part": Fault(said(target_modules=["c_attn"]), "WGT006", "error"),
    "targets null": Fault(said(target_modules=None), "CFG012", "warning"),
    "too few layers": Fault(said(layers_to_transform=[0, 1]), "WGT006", "error"),
    "of a deeper model": Fault(untouched, "BAS007", "error", LAYERS + 2, BASE),
    "untrained": Fault(untrained, "WGT014", "error", needs={"deep": True}),
}


def broken(fault: Fault, made: Path, folder: Path) -> Path:
    """Copy the sound adapter and break it."""
    shutil.copytree(made / f"adapter{fault.layers}", folder)
    fault.change(folder)
    return folder


def validated(folder: Path, made: Path, **needs: Any) -> Report:
    """Validate, with the base where it is asked for."""
    if needs.pop("base", False):
        needs["base"] = made / f"base{LAYERS}"
    report: Report = at.validate(folder, select=["CFG", "WGT", "BAS007"], **needs)
    return report


@pytest.mark.parametrize("name", FAULTS)
def test_peft_loads_it_in_silence(name: str, made: Path, tmp_path: Path) -> None:
    fault = FAULTS[name]
    folder = broken(fault, made, tmp_path / "adapter")
    right, _ = output(made / f"base{fault.layers}", made / f"adapter{fault.layers}")
    wrong, warned = output(made / f"base{LAYERS}", folder)
    assert warned == []
    assert (right - wrong).abs().max() > 0.01


def test_the_oracle_does_hear_warnings(made: Path) -> None:
    """An adapter of a shallower model is one that PEFT warns of; validate does too."""
    _, warned = output(made / f"base{LAYERS + 2}", made / f"adapter{LAYERS}")
    assert any("missing adapter keys" in text for text in warned)
    base = made / f"base{LAYERS + 2}"
    (found,) = at.validate(made / f"adapter{LAYERS}", base=base, select=["BAS007"]).findings
    assert found.level == "warning"


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_caught(name: str, made: Path, tmp_path: Path) -> None:
    fault = FAULTS[name]
    folder = broken(fault, made, tmp_path / "adapter")
    found = validated(folder, made, **fault.needs).findings
    assert (fault.code, fault.level) in {(f.code, f.level) for f in found}
    sound = validated(made / f"adapter{LAYERS}", made, **fault.needs).findings
    assert fault.code not in {f.code for f in sound}


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.needs])
def test_what_was_not_looked_at_is_said(name: str, made: Path, tmp_path: Path) -> None:
    fault = FAULTS[name]
    report = validated(broken(fault, made, tmp_path / "adapter"), made)
    assert fault.code not in {f.code for f in report.findings}
    assert fault.code in {line[:6] for line in report.skipped}
    assert fault.code not in report.facts["checks_run"]


def test_a_sound_one_has_no_errors_and_no_warnings(made: Path) -> None:
    report = validated(made / f"adapter{LAYERS}", made, base=True, deep=True)
    assert [f for f in report.findings if f.level != "note"] == []


def test_a_usual_scale_that_is_wrong_is_seen_by_nobody(made: Path, tmp_path: Path) -> None:
    """The limit: 16 instead of 8 is as good a scale, and the tensors do not show it."""
    folder = broken(Fault(said(lora_alpha=16), "", ""), made, tmp_path / "adapter")
    right, _ = output(made / f"base{LAYERS}", made / f"adapter{LAYERS}")
    wrong, warned = output(made / f"base{LAYERS}", folder)
    assert warned == []
    assert (right - wrong).abs().max() > 0.01
    given = {"base": True, "deep": True}
    sound = validated(made / f"adapter{LAYERS}", made, **given).findings
    assert {f.code for f in validated(folder, made, **given).findings} == {f.code for f in sound}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", f"- **LoRA alpha:** {ALPHA}\n"),
        ("axolotl.yaml", f"lora_r: {RANK}\nlora_alpha: {ALPHA}\n"),
        ("training_args.yaml", f"finetuning_type: lora\nlora_alpha: {ALPHA}\n"),
        ("checkpoint-9/adapter_config.json", json.dumps({"lora_alpha": ALPHA, "r": RANK})),
    ],
    ids=["card", "axolotl", "LLaMA-Factory", "checkpoint"],
)
def test_unless_a_file_beside_it_tells(file: str, text: str, made: Path, tmp_path: Path) -> None:
    """What files allow: they say what was trained, where somebody wrote it down."""
    folder = broken(Fault(said(lora_alpha=16), "", ""), made, tmp_path / "adapter")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text, "utf-8")
    (found,) = at.validate(folder, select=["CRD006"]).findings
    assert (found.level, found.file) == ("warning", file)
    said(lora_alpha=ALPHA)(folder)
    assert at.validate(folder, select=["CRD006"]).findings == ()


def test_metadata_that_say_another_scale_are_believed(made: Path, tmp_path: Path) -> None:
    folder = broken(Fault(said(lora_alpha=16), "", ""), made, tmp_path / "adapter")
    inner = json.dumps({"r": RANK, "lora_alpha": ALPHA})
    metadata = {"format": "pt", "lora_adapter_metadata": inner}
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, metadata)
    found = {(f.code, f.level) for f in validated(folder, made).findings}
    assert ("WGT017", "warning") in found
