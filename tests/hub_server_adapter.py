"""A small but whole adapter for repositories of the loopback hub, made without any framework."""

from __future__ import annotations

import hashlib
import json
import struct

CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "facebook/opt-350m",
    "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
    "target_modules": ["q_proj", "v_proj"], "modules_to_save": None, "inference_mode": True,
}  # fmt: skip
CARD = """---
base_model: facebook/opt-350m
base_model_relation: adapter
library_name: peft
license: mit
---
# An adapter

Notes of its author.
"""
PLACE = "base_model.model.model.decoder.layers.{}.self_attn.{}.lora_{}.weight"


def noise(size: int, seed: str) -> bytes:
    """Give bytes that repeat nowhere, the same every time."""
    return hashlib.shake_128(seed.encode()).digest(size)


def weights(layers: int, width: int, rank: int = 8, seed: str = "") -> bytes:
    """Give a safetensors file of a LoRA on q_proj and v_proj, float16."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            for letter, shape in (("A", [rank, width]), ("B", [width, rank])):
                start, end = end, end + 2 * rank * width
                told = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
                header[PLACE.format(layer, module, letter)] = told
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # The top bits of each number are cleared: no infinity, no NaN.
    data = noise(end, f"weights {seed}").translate(bytes(byte & 0x3F for byte in range(256)))
    return struct.pack("<Q", len(text)) + text + data


def adapter(layers: int = 4, width: int = 1024, seed: str = "") -> dict[str, bytes]:
    """Give the files of an adapter: config, weights, card, a tokenizer."""
    return {
        "adapter_config.json": json.dumps(CONFIG, indent=2).encode(),
        "adapter_model.safetensors": weights(layers, width, seed=seed),
        "README.md": CARD.encode(),
        "tokenizer.json": json.dumps({"model": {"vocab": noise(9000, seed).hex()}}).encode(),
    }
