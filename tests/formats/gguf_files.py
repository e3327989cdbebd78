"""Tiny bases and adapters for the tests of GGUF."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adaptertools.adapter import Adapter
from adaptertools.formats import Ask, Wrote, gguf, peft

HIDDEN, FEED, VOCAB, HEADS, KV, LAYERS, EXPERTS = 32, 48, 40, 4, 2, 2, 3
CONFIG = {
    "hidden_size": HIDDEN, "intermediate_size": FEED, "vocab_size": VOCAB,
    "num_attention_heads": HEADS, "num_key_value_heads": KV, "num_hidden_layers": LAYERS,
    "num_local_experts": EXPERTS, "tie_word_embeddings": False,
}  # fmt: skip
_KEYS = HIDDEN // HEADS * KV
_ATTENTION = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (_KEYS, HIDDEN),
              "self_attn.v_proj": (_KEYS, HIDDEN),
              "self_attn.o_proj": (HIDDEN, HIDDEN)}  # fmt: skip
_MLP = {"mlp.gate_proj": (FEED, HIDDEN), "mlp.up_proj": (FEED, HIDDEN),
        "mlp.down_proj": (HIDDEN, FEED)}  # fmt: skip
_MIXTRAL = {f"block_sparse_moe.experts.{e}.{w}": (HIDDEN, FEED) if w == "w2" else (FEED, HIDDEN)
            for e in range(EXPERTS) for w in ("w1", "w2", "w3")}  # fmt: skip
ENDS = {"model.embed_tokens": (VOCAB, HIDDEN), "lm_head": (VOCAB, HIDDEN)}

# Model type -> module below a layer -> (out, in).
MODELS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "llama": _ATTENTION | _MLP,
    "qwen2": _ATTENTION | _MLP,
    "phi3": {"self_attn.qkv_proj": (HIDDEN + 2 * _KEYS, HIDDEN),
             "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_up_proj": (2 * FEED, HIDDEN),
             "mlp.down_proj": (HIDDEN, FEED)},
    "gpt2": {"attn.c_attn": (3 * HIDDEN, HIDDEN), "attn.c_proj": (HIDDEN, HIDDEN),
             "mlp.c_fc": (FEED, HIDDEN), "mlp.c_proj": (HIDDEN, FEED)},
    "mixtral": _ATTENTION | _MIXTRAL | {"block_sparse_moe.gate": (EXPERTS, HIDDEN)},
}  # fmt: skip


def shapes(kind: str, ends: bool = False) -> dict[str, tuple[int, int]]:
    """Give every module with its (out, in)."""
    layers = "transformer.h" if kind == "gpt2" else "model.layers"
    found = {f"{layers}.{i}.{leaf}": shape for i in range(LAYERS)
             for leaf, shape in MODELS[kind].items()}  # fmt: skip
    return found | (ENDS if ends else {})


def base(folder: Path, kind: str = "llama", **more: Any) -> Path:
    folder.mkdir(parents=True)
    text = json.dumps({"model_type": kind} | CONFIG | more)
    (folder / "config.json").write_text(text, "utf-8")
    return folder


def adapter(
    folder: Path, modules: Mapping[str, tuple[int, int]], dtype: torch.dtype = torch.float32,
    ranks: Mapping[str, int] | None = None, **more: Any,
) -> Adapter:  # fmt: skip
    """Write a PEFT LoRA of rank 4 and alpha 8 on these modules, and read it."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(7)
    held = {}
    for name, (rows, columns) in modules.items():
        rank = (ranks or {}).get(name, 4)
        a, b = (torch.randn(shape, generator=generator).to(dtype)
                for shape in ((rank, columns), (rows, rank)))  # fmt: skip
        start = f"base_model.model.{name}"
        if name == "model.embed_tokens":
            a = torch.randn((rank, rows), generator=generator).to(dtype)
            held[f"{start}.lora_embedding_A"] = a
            held[f"{start}.lora_embedding_B"] = b[:columns].clone()
        else:
            held[f"{start}.lora_A.weight"], held[f"{start}.lora_B.weight"] = a, b
    save_file(held, folder / peft.WEIGHTS, {"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": dict(ranks or {}),
              "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
              "base_model_name_or_path": "some/base"}  # fmt: skip
    (folder / peft.CONFIG).write_text(json.dumps(config | more), "utf-8")
    return peft.read(folder, str(folder))


def written(source: Adapter, folder: Path, where: Path | None, **options: Any) -> Wrote:
    """Write the adapter into a new folder."""
    folder.mkdir(parents=True)
    rank, dtype = options.pop("rank", None), options.pop("dtype", None)
    return gguf.write(source, folder, Ask(base=where, rank=rank, dtype=dtype, options=options))
