"""A base of fused experts, and adapters of all of them at once and of single ones."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.cases_models import DECODER, randomised

E, R, WIDTH, HIDDEN = 4, 2, 12, 32
EXPERTS = "base_model.model.model.layers.0.mlp.experts"


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def save_base(folder: Path, dtype: torch.dtype) -> None:
    """Write a Qwen3-MoE as transformers holds it: one tensor for all experts."""
    fields = {"num_experts": E, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH}
    model = randomised(Qwen3MoeForCausalLM(Qwen3MoeConfig(**DECODER, head_dim=8, **fields)))
    model.to(dtype).save_pretrained(folder, save_original_format=False)


def save_adapter(folder: Path, tensors: dict[str, torch.Tensor], **fields: Any) -> None:
    """Write a LoRA of these factors."""
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "peft_version": "0.21.2", "r": R, "lora_alpha": 3, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def fused(folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a base, and an adapter of its experts' `down_proj` as PEFT packs it."""
    save_base(folder / "base", dtype)
    factors = {
        f"{EXPERTS}.lora_A.weight": noise(E * R, WIDTH),
        f"{EXPERTS}.lora_B.weight": noise(HIDDEN, R * E),
    }
    named = {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}
    save_adapter(folder / "adapter", factors, **named)


def single(folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a base, and an adapter of each expert's `gate_proj`, as they once were modules."""
    save_base(folder / "base", dtype)
    factors = {}
    for e in range(E):
        factors[f"{EXPERTS}.{e}.gate_proj.lora_A.weight"] = noise(R, HIDDEN)
        factors[f"{EXPERTS}.{e}.gate_proj.lora_B.weight"] = noise(WIDTH, R)
    save_adapter(folder / "adapter", factors, target_modules=["gate_proj"])
