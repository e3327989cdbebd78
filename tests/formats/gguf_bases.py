"""Tiny models of several architectures, and their GGUF files by the rules of llama.cpp's converter.

Written with the gguf package; nothing here uses the package under test.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

Fields = dict[str, Any]

SIZES: Fields = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GPT2: Fields = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64,
                "n_inner": 96, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One architecture.

    arch: what llama.cpp calls it; sizes: further arguments of its config.
    keys: what its GGUF says besides the usual, as methods of the writer.
    targets, experts: modules and parameters that a LoRA adapts.
    gelu: whether ggml looks its activation up in a table of float16.
    """

    arch: str
    sizes: Fields = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = LINEAR
    experts: tuple[str, ...] = ()
    gelu: bool = False


HEADS = {"add_key_length": 16, "add_value_length": 16}
KINDS: Mapping[str, Kind] = {
    "llama": Kind(arch="llama"),
    "qwen2": Kind(arch="qwen2"),
    "qwen3": Kind(arch="qwen3", sizes={"head_dim": 16}, keys=HEADS),
    "gemma2": Kind(
        arch="gemma2",
        sizes={"head_dim": 16, "query_pre_attn_scalar": 16, "tie_word_embeddings": True,
               "sliding_window": 64},
        keys={**HEADS, "add_attn_logit_softcapping": 50.0, "add_final_logit_softcapping": 30.0,
              "add_sliding_window": 64},
        gelu=True,
    ),
    "phi3": Kind(
        arch="phi3", keys={"add_rope_dimension_count": 16, "add_sliding_window": 0},
        targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    ),
    "gpt2": Kind(arch="gpt2", sizes=GPT2, targets=("c_attn", "c_proj", "c_fc"), gelu=True),
    "mixtral": Kind(
        arch="llama", sizes={"num_local_experts": 4, "num_experts_per_tok": 2},
        keys={"add_expert_count": 4, "add_expert_used_count": 2},
        targets=("q_proj", "k_proj", "v_proj", "o_proj"),
        experts=("experts.gate_up_proj", "experts.down_proj"),
    ),
}  # fmt: skip


def write(path: Path, kind: str, held: Any) -> Path:
    """Write a model of transformers as llama.cpp's converter would."""
    import gguf

    about, config = KINDS[kind], held.config
    writer = gguf.GGUFWriter(path, about.arch)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(96)
    writer.add_head_count(config.num_attention_heads)
    writer.add_tokenizer_model("none")
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for key, value in about.keys.items():
        getattr(writer, key)(value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, about.arch.upper()), 2)
    for name, values in _tensors(kind, held):
        stored = names.get_name(name, (".weight", ".bias"))
        assert stored, name
        writer.add_tensor(stored, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(kind: str, held: Any) -> Iterator[tuple[str, Any]]:
    tied = {"lm_head.weight"} if held.config.tie_word_embeddings else set()
    for name, value in held.state_dict().items():
        if name in tied:
            continue
        values = value.numpy()
        if kind in ("llama", "mixtral"):
            values = _paired(name, values)
        if kind == "gemma2" and name.endswith("norm.weight"):
            values = values + 1
        if kind == "gpt2" and values.ndim == 2 and ".h." in name:
            values = values.T
        if kind == "mixtral" and ".mlp." in name:
            yield from _experts(name, values)
        else:
            yield name, values


def _paired(name: str, values: Any) -> Any:
    """Put the rows of q and k as ggml turns them: half, pair -> pair, half."""
    heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
    if heads is None:
        return values
    size = len(values) // heads
    rows = [
        [h * size + i, h * size + size // 2 + i] for h in range(heads) for i in range(size // 2)
    ]
    return values[np.array(rows).reshape(-1)]


def _experts(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    """Name them as the checkpoints of their time did, which is what the gguf package knows."""
    block = name.split(".mlp.")[0] + ".block_sparse_moe."
    if name.endswith("gate_up_proj"):
        half = values.shape[1] // 2
        yield f"{block}experts.w1.weight", values[:, :half]
        yield f"{block}experts.w3.weight", values[:, half:]
    elif name.endswith("down_proj"):
        yield f"{block}experts.w2.weight", values
    else:
        yield f"{block}gate.weight", values


def model(kind: str) -> Any:
    """Make a model whose weights are large enough for every change to show."""
    import transformers

    torch.manual_seed(1)
    sizes = {**({} if kind == "gpt2" else SIZES), **KINDS[kind].sizes}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for weight in made.float().eval().parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    return made
