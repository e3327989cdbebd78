"""One tiny adapter with nothing wrong, and its base: every example starts from these.

good, bad = tiny.pair("WGT004")  # two fresh copies, in examples/WGT004-good and -bad
tiny.set_config(bad, r=0, lora_alpha=tiny.DROP)
tiny.set_tensors(bad, lambda held: {n: t for n, t in held.items() if "lora_B" not in n})
tiny.set_options(bad, base="base", deep=True)
tiny.base(bad / "base")

A Llama of two layers, width 8, two heads and one key-value head; LoRA of rank 2 on q_proj, v_proj.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Arrays = dict[str, NDArray[Any]]

EXAMPLES = Path(__file__).parent / "examples"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
RANK, ALPHA, LAYERS, WIDTH, VOCAB = 2, 4, 2, 8, 12
BASE = "example-org/tiny-llama"
START = "base_model.model.model.layers."
DROP: Final = object()  # as a value: take the key out

# What PEFT 0.18 writes, in its order, without what is at its default.
CONFIG: Mapping[str, Any] = {
    "base_model_name_or_path": BASE,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_alpha": ALPHA,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.18.1",
    "r": RANK,
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}
BASE_CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "float32",
    "head_dim": WIDTH // 2,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
}
CARD = f"""---
base_model: {BASE}
base_model_relation: adapter
library_name: peft
license: apache-2.0
language: en
pipeline_tag: text-generation
datasets:
- example-org/sayings
metrics:
- perplexity
tags:
- lora
---

# Sayings

A LoRA of rank {RANK} that makes a very small Llama finish sayings. Trained for 300 steps on
example-org/sayings; its perplexity on 50 held-out sayings fell from 31 to 12.
"""
_LINEARS = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (2 * WIDTH, WIDTH),
    "mlp.up_proj": (2 * WIDTH, WIDTH),
    "mlp.down_proj": (WIDTH, 2 * WIDTH),
}


def noise(*shape: int, seed: int = 0, size: float = 0.1) -> NDArray[Any]:
    """Give seeded random float32 values."""
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def tensors() -> Arrays:
    """Give the adapter's tensors, under the names that PEFT writes."""
    made: Arrays = {}
    for layer in range(LAYERS):
        for module in ("self_attn.q_proj", "self_attn.v_proj"):
            rows, columns = _LINEARS[module]
            name = f"{START}{layer}.{module}"
            made[f"{name}.lora_A.weight"] = noise(RANK, columns, seed=len(made))
            made[f"{name}.lora_B.weight"] = noise(rows, RANK, seed=len(made))
    return made


def adapter(folder: Path) -> Path:
    """Write the adapter: config, weights and card."""
    folder.mkdir(parents=True)
    write_json(folder / CONFIG_FILE, CONFIG)
    save_file(tensors(), folder / WEIGHTS_FILE, {"format": "pt"})
    (folder / "README.md").write_text(CARD, "utf-8")
    return folder


def base_tensors() -> Arrays:
    """Give the tensors of the base."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, WIDTH)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.{module}.weight": shape for module, shape in _LINEARS.items()}
        shapes |= {f"{stem}.{x}_layernorm.weight": (WIDTH,) for x in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCAB, WIDTH)}
    return {name: noise(*shape, seed=100 + i) for i, (name, shape) in enumerate(shapes.items())}


def base(folder: Path, **config: Any) -> Path:
    """Write the base; `config` changes config.json, DROP takes a key out."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", _changed(BASE_CONFIG, config))
    save_file(base_tensors(), folder / "model.safetensors", {"format": "pt"})
    return folder


def example(code: str, kind: str) -> Path:
    """Write the good adapter as an example; what was there before goes."""
    folder = EXAMPLES / f"{code}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    return adapter(folder)


def pair(code: str) -> tuple[Path, Path]:
    """Start the two examples of a check; both are good so far."""
    return example(code, "good"), example(code, "bad")


def set_config(folder: Path, **changes: Any) -> None:
    """Change keys of adapter_config.json; DROP takes one out."""
    path = folder / CONFIG_FILE
    write_json(path, _changed(json.loads(path.read_text("utf-8")), changes))


def set_tensors(
    folder: Path, change: Callable[[Arrays], Arrays], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights again, changed; metadata is PEFT's unless it is given."""
    path = folder / WEIGHTS_FILE
    meta = {"format": "pt"} if metadata is None else dict(metadata)
    save_file(change(load_file(path)), path, meta)


def set_options(folder: Path, **options: Any) -> None:
    """Say what validate is to be called with: base, deep, target, peft_version, strict …"""
    write_json(folder / "options.json", options)


def write_json(path: Path, value: object) -> None:
    """Write JSON as PEFT does: indented, no newline at the end."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True), "utf-8")


def _changed(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in {**value, **changes}.items() if item is not DROP}
