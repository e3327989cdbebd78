"""Llamas and LoRAs written with torch, for tests that need to know every byte; without PEFT.

base = save_base(folder / "base", llama(layers=2, hidden=64), shards=3)
adapter = save_lora(folder / "adapter", base, factors(read(base), linears(base), rank=4))
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from tests.cases_recipe import Case

Tensors = dict[str, torch.Tensor]
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": False,
    "dtype": "float32",
}


def noise(*shape: int, seed: int, size: float = 1.0) -> torch.Tensor:
    """Seeded normal values in float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def llama(
    layers: int = 2, hidden: int = 32, mlp: int = 48, dtype: torch.dtype = torch.float32
) -> Tensors:
    """Random tensors under Llama's names."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (96, hidden)}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.self_attn.{x}_proj.weight": (hidden, hidden) for x in "qkvo"}
        shapes |= {f"{stem}.mlp.{x}_proj.weight": (mlp, hidden) for x in ("gate", "up")}
        shapes[f"{stem}.mlp.down_proj.weight"] = (hidden, mlp)
        shapes[f"{stem}.input_layernorm.weight"] = (hidden,)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (96, hidden)}
    return {
        name: noise(*shape, seed=seed, size=0.1).to(dtype)
        for seed, (name, shape) in enumerate(shapes.items())
    }


def save_base(folder: Path, tensors: Tensors, shards: int = 1, **config: Any) -> Path:
    """Write a base of one file or several, with config and index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config, indent=2))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    names, where = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        save_file({n: tensors[n] for n in part}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    size = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def linears(tensors: Iterable[str]) -> list[str]:
    """The modules among tensor names that are linear layers."""
    return [n.removesuffix(".weight") for n in tensors if n.endswith("_proj.weight")]


def factors(
    tensors: Tensors, modules: Iterable[str], rank: int = 4, share: float = 0.1, seed: int = 0
) -> Factors:
    """Random A and B for each module; their product has `share` of the weight's norm."""
    made = {}
    for i, module in enumerate(modules):
        weight = tensors[f"{module}.weight"].double()
        a = noise(rank, weight.shape[1], seed=1000 * seed + 2 * i, size=0.3)
        b = noise(weight.shape[0], rank, seed=1000 * seed + 2 * i + 1)
        size = share * weight.norm() / (b.double() @ a.double()).norm()
        made[module] = (a, (b * size).float())
    return made


def save_lora(folder: Path, base: Path, pairs: Mapping[str, Any], **config: Any) -> Path:
    """Write a LoRA as PEFT does; alpha = r, so that its update is B·A.

    `more` in config holds further tensors by their full names.
    """
    more = config.pop("more", {})
    tensors = dict(more)
    for module, (a, b) in pairs.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.contiguous()
    rank = next((a.shape[0] for a, _ in pairs.values()), 1)
    said = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": rank,
        "task_type": "CAUSAL_LM",
        "target_modules": sorted({module.rpartition(".")[2] for module in pairs}),
    }
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def small(folder: Path, dtype: torch.dtype = torch.float32, **base: Any) -> tuple[Path, Path]:
    """A Llama of two layers with a LoRA on every linear layer: base and adapter folder."""
    tensors = llama(dtype=dtype)
    path = save_base(folder / "base", tensors, **base)
    pairs = factors(tensors, linears(tensors))
    return path, save_lora(folder / "adapter", path, pairs)


def merge_case(case: Case, folder: Path, **options: Any) -> Path:
    """Merge a case of the kit; gives the folder of the result."""
    paths = case.adapters(folder)
    options = case.merge_options | options
    if case.scales:
        options["scale"] = list(case.scales)
    at.merge(paths, base=folder / "base", out=folder / "out", **options)
    return folder / "out"


def read(folder: Path) -> Tensors:
    """Every tensor of a folder."""
    return {
        n: t for path in sorted(folder.glob("*.safetensors")) for n, t in load_file(path).items()
    }


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file of a folder, by its relative name; hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def raw_safetensors(
    path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: Mapping[str, str]
) -> None:
    """Write a file byte by byte: it may hold dtypes and metadata that torch would not write."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    data = b""
    for name, (dtype, shape, values) in tensors.items():
        end = len(data) + len(values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), end]}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
