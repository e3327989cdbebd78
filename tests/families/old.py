"""Adapters as transformers 4 and PEFT named them: by the modules of that time, one per expert.

Those modules are called what the oldest layout of the family's checkpoints still calls them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.cases_recipe import Tensors

from . import recipe
from .recipe import RANK, Family, Layout

# Family -> the modules that were adapted.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "gpt_neox": ("query_key_value", "embed_out"),
    "vit": ("query", "value", "dense"),
    "llava": ("q_proj", "linear_1", "fc1"),
    "gemma3": ("q_proj", "down_proj", "fc2"),
    "qwen2_vl": ("q_proj", "qkv"),
    "qwen2_5_vl": ("k_proj", "qkv", "up_proj"),
    "mixtral": ("q_proj", "w1", "w2", "w3", "block_sparse_moe.gate"),
    "qwen2_moe": ("q_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen3_moe": ("q_proj", "gate_proj", "up_proj", "down_proj", "mlp.gate"),
    "deepseek_v2": ("q_b_proj", "gate_proj", "up_proj", "down_proj"),
    "deepseek_v3": ("kv_b_proj", "gate_proj", "up_proj", "down_proj"),
}


def layout_of(family: Family) -> Layout:
    """Give the layout whose names are those of the old modules."""
    return "older" if "older" in family.layouts else "saved"


def save_adapter(folder: Path, base: Tensors, targets: tuple[str, ...]) -> Tensors:
    """Write a LoRA on modules of an old checkpoint; gives its update of every tensor."""
    tensors: Tensors = {}
    updates: Tensors = {}
    generator = torch.Generator().manual_seed(3)
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        if module == name or not f".{module}".endswith(tuple(f".{t}" for t in targets)):
            continue
        a = torch.randn(RANK, weight.shape[1], generator=generator) * 0.3
        b = torch.randn(weight.shape[0], RANK, generator=generator) * 0.05
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
        updates[name] = 2 * b.double() @ a.double()
    shape = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(targets)}
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **shape}))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return updates


def laid_out(family: Family, base: Path, tensors: Tensors, layout: Layout) -> Tensors:
    """Let transformers read float64 tensors in the old layout and write another.

    `base` is a checkpoint in the old layout; its tensors are replaced in a copy.
    """
    copy, out = base.with_name(f"{base.name}-summed"), base.with_name(f"{layout}-expected")
    copy.mkdir(exist_ok=True)
    (copy / "config.json").write_text((base / "config.json").read_text())
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    loaded = recipe.load(family, copy)
    # A loaded model remembers the names that it was read from; a new one does not.
    new = family.cls(loaded.config).double()
    new.load_state_dict(loaded.state_dict())
    recipe.save(family, new, out, layout)
    return recipe.read(out)
