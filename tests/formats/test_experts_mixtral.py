"""Mixtral, whose experts and router have other names one by one: PEFT reads both layouts alike."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

import adaptertools as at
from tests.cases_recipe import quiet

SIZES = {"w1": (6, 8), "w3": (6, 8), "w2": (8, 6)}
CONFIG = {"model_type": "mixtral", "hidden_size": 8, "intermediate_size": 6, "vocab_size": 16,
          "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
          "num_local_experts": 3, "num_experts_per_tok": 2}  # fmt: skip
WEIGHTS = "adapter_model.safetensors"


def adapter(folder: Path, **more: object) -> Path:
    """Save what was trained with transformers 4: a LoRA of every expert, of routers and of q."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3,
              "target_modules": ["w1", "w2", "w3", "gate", "q_proj"]} | more  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(1)
    leaves = {f"block_sparse_moe.experts.{e}.{part}": shape
              for e in range(3) for part, shape in SIZES.items()}  # fmt: skip
    leaves |= {"block_sparse_moe.gate": (3, 8), "self_attn.q_proj": (8, 8)}
    tensors = {}
    for layer in range(2):
        for leaf, (out, inner) in leaves.items():
            stem = f"base_model.model.model.layers.{layer}.{leaf}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, inner, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    save_file(tensors, folder / WEIGHTS)
    return folder


def merged(folder: Path) -> dict[str, torch.Tensor]:
    """Give PEFT's update of every weight, in float64."""
    with quiet():
        model = MixtralForCausalLM(MixtralConfig(**CONFIG)).double()
        for part in model.parameters():
            part.data.zero_()
        peft = PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False)
        whole = peft.double().merge_and_unload()
    return {name: part.detach() for name, part in whole.named_parameters() if part.any()}


def base(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_it_does_what_peft_makes_of_the_old_one(tmp_path: Path) -> None:
    source, where = adapter(tmp_path / "in"), base(tmp_path / "base")
    at.convert(source, to="peft", experts="fused", base=where, out=tmp_path / "out")
    expected, ours = merged(source), merged(tmp_path / "out")
    assert len(expected) == 2 * 4
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-12)
    at.convert(tmp_path / "out", to="peft", experts="split", base=where, out=tmp_path / "back")
    before, after = (load_file(folder / WEIGHTS) for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_peft_takes_old_ones_with_rslora_for_more_than_they_are(tmp_path: Path) -> None:
    """PEFT 0.21.2 doubles rank and alpha of gate and up on loading: √2 too much with rsLoRA."""
    source, where = adapter(tmp_path / "in", use_rslora=True), base(tmp_path / "base")
    at.convert(source, to="peft", experts="fused", base=where, out=tmp_path / "out")
    ours, theirs = merged(tmp_path / "out"), merged(source)
    alone = load_file(source / WEIGHTS)
    stem = "base_model.model.model.layers.1.block_sparse_moe.experts.2.w3.lora_"
    low = alone[f"{stem}B.weight"].double() @ alone[f"{stem}A.weight"].double() * 3 / 2**0.5
    name = "model.layers.1.mlp.experts.gate_up_proj"
    torch.testing.assert_close(ours[name][2, 6:], low, rtol=0, atol=1e-12)
    if torch.allclose(theirs[name], ours[name]):
        pytest.skip("this PEFT does it right")
    torch.testing.assert_close(theirs[name], ours[name] * 2**0.5, rtol=0, atol=1e-12)
