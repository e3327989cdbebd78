"""What else an adapter can hold, on checkpoints whose tensors are not the modules' own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import adaptertools as at
from tests import kit

from . import recipe
from .recipe import Layout
from .table import FAMILIES

torch.set_num_threads(1)

ATTENTION = ["q_proj", "k_proj", "v_proj"]
Row = tuple[str, Layout, Mapping[str, Any]]

LORAS: dict[str, Row] = {
    "dora": ("vit", "saved", {"use_dora": True}),
    "lora_bias": ("vit", "saved", {"lora_bias": True}),
    "all_biases": ("vit", "saved", {"bias": "all"}),
    "rslora": ("gemma3", "older", {"use_rslora": True}),
    "saved_head": ("llava", "saved", {"modules_to_save": ["lm_head"]}),
    "saved_projector": ("llava", "older", {"modules_to_save": ["multi_modal_projector"]}),
    "embedding": ("llava", "saved", {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}),
    "tokens": ("llava", "older", {"trainable_token_indices": {"embed_tokens": [3, 7]}}),
    "head_by_its_new_name": ("gpt_neox", "saved", {"target_modules": ["lm_head"]}),
    "dora_qwen2_vl": ("qwen2_vl", "saved", {"use_dora": True}),
    "only_down": ("mixtral", "saved", {"target_parameters": ["experts.down_proj"]}),
    "only_gate_up": ("qwen2_moe", "saved", {"target_parameters": ["experts.gate_up_proj"]}),
    "only_down_turned": ("gpt_oss", "saved", {"target_parameters": ["experts.down_proj"]}),
    "one_layer": ("qwen2_moe", "saved", {"target_parameters": ["1.mlp.experts.gate_up_proj"]}),
    "experts_patterns": (
        "qwen2_moe",
        "converted",
        {
            "use_rslora": True,
            "rank_pattern": {r"layers\.0\.mlp\.experts\.down_proj": 5},
            "alpha_pattern": {"gate_up_proj": 7},
        },
    ),
    "dense_weights": (
        "deepseek_v3",
        "saved",
        {"target_parameters": ["mlp.gate_proj.weight", "shared_experts.up_proj.weight"]},
    ),
}
OTHERS: dict[str, tuple[str, Layout, peft.PeftConfig]] = {
    "ia3": (
        "vit",
        "saved",
        peft.IA3Config(target_modules=[*ATTENTION, "fc2"], feedforward_modules=["fc2"]),
    ),
    # PEFT rounds alpha / r of LoHa to float32, whatever it merges in: here that is exact.
    "loha": ("llava", "saved", peft.LoHaConfig(r=3, alpha=6, target_modules=ATTENTION)),
    "lokr": ("vit", "saved", peft.LoKrConfig(r=3, alpha=5, target_modules=["q_proj", "fc1"])),
    "oft": ("qwen2_vl", "saved", peft.OFTConfig(oft_block_size=8, target_modules=ATTENTION)),
    "hra": ("gemma3", "older", peft.HRAConfig(r=4, target_modules=ATTENTION)),
}


def check(name: str, layout: Layout, config: peft.PeftConfig, folder: Path) -> None:
    """Merge with PEFT and with the package, and compare all tensors."""
    family = FAMILIES[name]
    base, adapter = folder / "base", folder / "adapter"
    recipe.save_base(family, base, layout, torch.float32)
    recipe.save_adapter(family, base, adapter, config)
    expected = recipe.merged_by_peft(family, base, adapter, folder / "peft", layout)
    before = kit.read(base)
    assert any(not torch.equal(tensor, before[n].double()) for n, tensor in expected.items())
    at.merge(adapter, base=base, out=folder / "out")
    kit.assert_within_one_ulp(kit.read(folder / "out"), expected, torch.float32)


@pytest.mark.parametrize(("name", "layout", "fields"), LORAS.values(), ids=LORAS)
def test_lora(name: str, layout: Layout, fields: Mapping[str, Any], tmp_path: Path) -> None:
    check(name, layout, recipe.lora(FAMILIES[name], **fields), tmp_path)


@pytest.mark.parametrize(("name", "layout", "config"), OTHERS.values(), ids=OTHERS)
def test_other_methods(name: str, layout: Layout, config: peft.PeftConfig, tmp_path: Path) -> None:
    check(name, layout, config, tmp_path)
