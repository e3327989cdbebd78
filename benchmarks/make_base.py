"""Write a random Llama checkpoint in shards and a LoRA adapter that fits it.

The weights are written straight to safetensors, shard by shard, so that making a base needs the
memory of one shard and not of a model. A directory appears under its name only once complete, and
one that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

# The geometry of TinyLlama: 1.1e9 parameters at 22 layers.
HIDDEN = 2048
INTERMEDIATE = 5632
VOCABULARY = 32000
HEADS = 32
KV_HEADS = 4
STD = 0.02
RANK = 16
ALPHA = 32

KV_WIDTH = HIDDEN // HEADS * KV_HEADS
# (output width, input width) of each linear layer of a block
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV_WIDTH, HIDDEN),
    "self_attn.v_proj": (KV_WIDTH, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
TARGETS = {
    "all-linear": [name.rpartition(".")[2] for name in LINEARS],
    "attention": ["q_proj", "v_proj"],
}

Shape = tuple[int, ...]


def shapes(layers: int) -> Iterator[tuple[str, Shape]]:
    """The tensors of a LlamaForCausalLM with untied embeddings, in the order of the model."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for name, shape in LINEARS.items():
            yield f"{block}.{name}.weight", shape
        yield f"{block}.input_layernorm.weight", (HIDDEN,)
        yield f"{block}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def split(tensors: list[tuple[str, Shape]], parts: int) -> list[list[tuple[str, Shape]]]:
    """Cut the tensors, in order, into parts of about the same number of elements."""
    total = sum(prod(shape) for _, shape in tensors)
    result: list[list[tuple[str, Shape]]] = [[] for _ in range(parts)]
    before = 0
    for name, shape in tensors:
        middle = before + prod(shape) // 2
        result[middle * parts // total].append((name, shape))
        before += prod(shape)
    return result


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def random_weight(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, STD, generator=generator)


def write_base(directory: Path, layers: int, shards: int) -> None:
    generator = torch.Generator().manual_seed(layers)
    tensors = list(shapes(layers))
    weight_map: dict[str, str] = {}
    for number, part in enumerate(split(tensors, shards), start=1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        weights = {name: random_weight(shape, generator) for name, shape in part}
        save_file(weights, directory / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(weights, file))
    parameters = sum(prod(shape) for _, shape in tensors)
    metadata = {"total_parameters": parameters, "total_size": 2 * parameters}
    write_json(
        directory / "model.safetensors.index.json",
        {"metadata": metadata, "weight_map": weight_map},
    )
    write_json(directory / "config.json", base_config(layers))


def base_config(layers: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": STD,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    }


def write_adapter(directory: Path, base: Path, layers: int, targets: list[str]) -> None:
    generator = torch.Generator().manual_seed(layers + 1)
    weights: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        for name, (rows, columns) in LINEARS.items():
            if name.rpartition(".")[2] not in targets:
                continue
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            for side, shape in (("lora_A", (RANK, columns)), ("lora_B", (rows, RANK))):
                values = torch.empty(shape, dtype=torch.float32)
                weights[f"{prefix}.{side}.weight"] = values.normal_(0, STD, generator=generator)
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(directory / "adapter_config.json", adapter_config(base.name, targets))


def adapter_config(base: str, targets: list[str]) -> dict[str, Any]:
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "rank_pattern": {},
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def make(directory: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill the directory, unless it is there; an interrupted one does not remain."""
    if directory.exists():
        return
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, help="directory of the base")
    parser.add_argument("adapter", type=Path, help="directory of the adapter")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--targets", choices=TARGETS, default="all-linear")
    args = parser.parse_args()
    targets = TARGETS[args.targets]
    make(args.base, lambda path: write_base(path, args.layers, args.shards))
    make(args.adapter, lambda path: write_adapter(path, args.base, args.layers, targets))


if __name__ == "__main__":
    main()
