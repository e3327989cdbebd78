"""A tiny Llama and a LoRA for it, written by hand: for tests that need files and no model.

Only numpy and the safetensors library are needed, so such a test starts in no time.
"""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Arrays = dict[str, NDArray[Any]]

RANK, ALPHA, LAYERS, WIDTH, VOCAB = 2, 4, 2, 8, 12
TARGETS = ("self_attn.q_proj", "mlp.down_proj")
START = "base_model.model."

BASE_CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
}
CONFIG: Mapping[str, Any] = {
    "lora_alpha": ALPHA,
    "peft_type": "LORA",
    "r": RANK,
    "target_modules": ["q_proj", "down_proj"],
    "task_type": "CAUSAL_LM",
}

_SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "mlp.up_proj": (2 * WIDTH, WIDTH),
    "mlp.down_proj": (WIDTH, 2 * WIDTH),
}


def noise(*shape: int, seed: int = 0) -> NDArray[Any]:
    """Give seeded random float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def base_tensors() -> Arrays:
    """Give the tensors of the base."""
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{i}.{module}.weight": shape
        for i in range(LAYERS)
        for module, shape in _SHAPES.items()
    }
    shapes |= {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {"lm_head.weight": (VOCAB, WIDTH)}
    return {name: noise(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def base(folder: Path, tensors: Arrays | None = None, shards: int = 1, **config: Any) -> Path:
    """Write the base, in one file or in several with an index; `config` changes config.json."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {**BASE_CONFIG, **config})
    tensors = base_tensors() if tensors is None else tensors
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    files = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    homes = {name: files[i % shards] for i, name in enumerate(tensors)}
    for file in files:
        part = {name: tensors[name] for name, home in homes.items() if home == file}
        save_file(part, folder / file, {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": homes}
    write_json(folder / "model.safetensors.index.json", index)
    return folder


def lora_tensors() -> Arrays:
    """Give the tensors of the LoRA, under the names that PEFT writes."""
    made: Arrays = {}
    for i in range(LAYERS):
        for target in TARGETS:
            rows, columns = _SHAPES[target]
            name = f"{START}model.layers.{i}.{target}"
            made[f"{name}.lora_A.weight"] = noise(RANK, columns, seed=100 + len(made))
            made[f"{name}.lora_B.weight"] = noise(rows, RANK, seed=100 + len(made))
    return made


def adapter(folder: Path, tensors: Arrays | None = None, **config: Any) -> Path:
    """Write the LoRA; `config` changes adapter_config.json, None takes a key out."""
    folder.mkdir(parents=True)
    changed = {**CONFIG, **config}
    kept = {key: value for key, value in changed.items() if value is not None}
    write_json(folder / "adapter_config.json", kept)
    held = lora_tensors() if tensors is None else tensors
    save_file(held, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def renamed(change: Callable[[str], str]) -> Arrays:
    """Give the LoRA's tensors under changed names."""
    return {change(name): tensor for name, tensor in lora_tensors().items()}


def merged(delta: float = ALPHA / RANK) -> Arrays:
    """Give the tensors of base + delta · B · A, computed in float64 and rounded once."""
    tensors, lora = base_tensors(), lora_tensors()
    for name in lora:
        if name.endswith("lora_A.weight"):
            target = name.removeprefix(START).replace("lora_A.weight", "weight")
            down, up = lora[name], lora[name.replace("lora_A", "lora_B")]
            exact = tensors[target] + delta * (up.astype(np.float64) @ down)
            tensors[target] = exact.astype(np.float32)
    return tensors


def read(folder: Path) -> Arrays:
    """Read all safetensors files of a folder."""
    found: Arrays = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def write_json(path: Path, value: object) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2), "utf-8")


def change_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    write_json(path, {**json.loads(path.read_text("utf-8")), **changes})


def change_tensors(path: Path, change: Callable[[Arrays], Arrays]) -> None:
    """Write the tensors of a file again, changed."""
    save_file(change(load_file(path)), path, {"format": "pt"})


def whole(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """Put a file together from its JSON and its data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), at: Any = (0, 4)) -> dict[str, Any]:
    """Describe one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": at}


def one(dtype: Any = "F32", shape: Any = (1,), at: Any = (0, 4)) -> dict[str, Any]:
    """Describe a file that holds one tensor, called alpha."""
    return {"alpha": entry(dtype, shape, at)}
