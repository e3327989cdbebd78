"""Tiny Llamas that transformers quantises with bitsandbytes on the CPU, and saves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from adaptertools.tensorfile import TensorSpec, read_header
from tests.cases_recipe import quiet

pytest.importorskip("bitsandbytes", reason="it makes the files")

MODULES = {
    f"model.layers.{layer}.{module}.weight"
    for layer in range(2)
    for module in (
        *(f"self_attn.{x}_proj" for x in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
}  # fmt: skip


def save(
    folder: Path, dtype: torch.dtype = torch.bfloat16, **options: Any
) -> tuple[Any, dict[str, TensorSpec]]:
    """Save a base in folder/base and quantised in folder/quantised; give model and tensors.

    The model is saved before it is used: on some CPUs bitsandbytes damages it later.
    """
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    with quiet():
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(dtype).save_pretrained(folder / "base")
        model = AutoModelForCausalLM.from_pretrained(
            folder / "base", dtype=dtype, quantization_config=BitsAndBytesConfig(**options),
            device_map="cpu",
        )  # fmt: skip
        model.save_pretrained(folder / "quantised")
    return model, specs(folder / "quantised")


def specs(folder: Path) -> dict[str, TensorSpec]:
    """Every stored tensor of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    return {n: spec for file in files for n, spec in read_header(file).tensors.items()}
