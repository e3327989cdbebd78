"""GPT-OSS in MXFP4 with an adapter of its experts: kept in MXFP4, or decoded to 16 bits.

The oracle is transformers, which decodes both on a CPU, and what PEFT would add.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from tests.cases_models import DECODER, randomised
from tests.cases_recipe import quiet

transformers = pytest.importorskip("transformers", minversion="5.0")
peft = pytest.importorskip("peft", minversion="0.20")

E, SIZES = 4, {**DECODER, "hidden_size": 64, "intermediate_size": 32, "head_dim": 16}
NAMES = ("down_proj", "gate_up_proj")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A base whose experts are packed, an adapter, and what PEFT adds to each parameter."""
    folder = tmp_path_factory.mktemp("mxfp4")
    config = transformers.GptOssConfig(num_local_experts=E, num_experts_per_tok=2, **SIZES)
    with quiet():
        model = randomised(transformers.GptOssForCausalLM(config)).to(torch.bfloat16)
        model.save_pretrained(folder / "base")
        _pack(folder / "base")
        targets = [f"mlp.experts.{name}" for name in NAMES]
        lora = {"r": 2, "target_modules": ["q_proj"], "target_parameters": targets}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(lora_alpha=2, **lora))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    wrapped.save_pretrained(folder / "adapter")
    deltas = {}
    for name, module in wrapped.named_modules():
        if type(module).__name__ == "ParamWrapper":
            place = name.removeprefix("base_model.model.").replace(".base_layer", "")
            delta = module.get_delta_weight("default")
            deltas[f"{place}.{module.parameter_name}"] = delta.detach().double()
    assert len(deltas) == 4
    return folder, deltas


def _pack(folder: Path) -> None:
    """Put other experts in the place of the plain ones, in MXFP4."""
    file, generator, packed = folder / "model.safetensors", torch.Generator().manual_seed(0), {}
    for name, tensor in load_file(file).items():
        if not name.endswith(NAMES):
            packed[name] = tensor
            continue
        experts, inputs, outputs = tensor.shape
        grid = (experts, outputs, inputs // 32)
        codes = torch.randint(0, 256, (*grid, 16), generator=generator)
        packed[f"{name}_blocks"] = codes.to(torch.uint8)
        scales = torch.randint(118, 121, grid, generator=generator)
        packed[f"{name}_scales"] = scales.to(torch.uint8)
    save_file(packed, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))


def loaded(folder: Path) -> dict[str, Any]:
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return {name: p.detach().double() for name, p in model.named_parameters()}


def test_kept_packed_every_expert_has_its_update(
    made: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder, deltas = made
    at.merge(folder / "adapter", base=folder / "base", out=tmp_path / "out", verify=True)
    before, after = loaded(folder / "base"), loaded(tmp_path / "out")
    for name, delta in deltas.items():
        for moved, meant in zip(after[name] - before[name], delta, strict=True):
            assert float((moved * meant).sum() / (meant**2).sum()) == pytest.approx(1, abs=0.3)
    old, new = (load_file(f / "model.safetensors") for f in (folder / "base", tmp_path / "out"))
    assert all(torch.equal(old[n], new[n]) for n in old if n.endswith("_scales"))
    assert at.verify(tmp_path / "out").ok


def test_decoded_it_is_base_plus_update(
    made: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder, deltas = made
    out = tmp_path / "out"
    at.merge(folder / "adapter", base=folder / "base", out=out, quant="none", verify=True)
    assert not any(n.endswith(("_blocks", "_scales")) for n in load_file(out / "model.safetensors"))
    before, after = loaded(folder / "base"), loaded(out)
    assert before.keys() == after.keys()
    for name, delta in deltas.items():
        wanted = before[name] + delta
        assert ((after[name] - wanted).abs() <= wanted.abs() * 2**-8 + 2**-8 * delta.abs()).all()
    assert at.verify(out).ok


def test_verify_finds_the_expert_that_was_swapped(
    made: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder, out = made[0], tmp_path / "out"
    at.merge(folder / "adapter", base=folder / "base", out=out, quant="none")
    tensors = load_file(out / "model.safetensors")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    tensors[name] = tensors[name][[0, 2, 1, 3]].contiguous()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    report = at.verify(out)
    assert not report.ok
    assert any("[1]" in finding.text for finding in report.findings)
