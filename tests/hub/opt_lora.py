"""A LoRA on q_proj and v_proj of all 24 layers of OPT-350m, as files of a repository."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import numpy as np
from safetensors.numpy import save

NAME, BASE = "ybelkada/opt-350m-lora", "facebook/opt-350m"
LAYERS, WIDTH, RANK = 24, 1024, 16
CONFIG: dict[str, Any] = {
    "base_model_name_or_path": BASE, "bias": "none", "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "lora_alpha": 32, "lora_dropout": 0.05,
    "modules_to_save": None, "peft_type": "LORA", "r": RANK, "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}  # fmt: skip
CARD = f"---\nbase_model: {BASE}\nlibrary_name: peft\nlicense: mit\n---\n# A LoRA of OPT-350m\n"
BESIDE = {
    ".gitattributes": b"*.bin filter=lfs diff=lfs merge=lfs -text\n",
    "README.md": CARD.encode(),
    "adapter_config.json": json.dumps(CONFIG, indent=2).encode(),
}


@cache
def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shapes = {"A": (RANK, WIDTH), "B": (WIDTH, RANK)}
    return {
        f"base_model.model.model.decoder.layers.{layer}.self_attn.{module}.lora_{half}.weight":
            rng.standard_normal(shape, np.float32)
        for layer in range(LAYERS)
        for module in ("q_proj", "v_proj")
        for half, shape in shapes.items()
    }  # fmt: skip


@cache
def safetensors() -> dict[str, bytes]:
    return {**BESIDE, "adapter_model.safetensors": save(arrays(), {"format": "pt"})}


@cache
def pickled() -> dict[str, bytes]:
    import torch

    file = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in arrays().items()}, file)
    return {**BESIDE, "adapter_model.bin": file.getvalue()}


def small(rank: int = 2, layers: int = 1, **config: Any) -> dict[str, bytes]:
    """Give a LoRA of a few hundred bytes."""
    made = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight":
            np.full((rank, 8) if half == "A" else (8, rank), layer + 1, np.float32)
        for layer in range(layers)
        for half in "AB"
    }  # fmt: skip
    text = json.dumps({**CONFIG, "r": rank, "target_modules": ["q_proj"], **config}).encode()
    return {**BESIDE, "adapter_config.json": text, "adapter_model.safetensors": save(made)}
