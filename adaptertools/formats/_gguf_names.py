"""What llama.cpp calls the modules of each architecture, and the other way.

Facts from llama.cpp's conversion/ and the gguf package's tensor_mapping.py; tests hold this table
against that package. What is not here is refused: many architectures have weights that llama.cpp
splits, transposes or reorders, and a LoRA under the right name would then act on the wrong rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from adaptertools.errors import Mismatch, Unsupported, shown

_QKV = {f"self_attn.{letter}_proj": f"attn_{letter}" for letter in "qkv"}
_ATTENTION = _QKV | {"self_attn.o_proj": "attn_output"}
_GATED = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_UNGATED = {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_FUSED = {"mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_GPT2 = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up",
         "mlp.c_proj": "ffn_down"}  # fmt: skip
_MIXTRAL = {"block_sparse_moe.experts.{}.w1": "ffn_gate_exps",
            "block_sparse_moe.experts.{}.w3": "ffn_up_exps",
            "block_sparse_moe.experts.{}.w2": "ffn_down_exps"}  # fmt: skip
_EXPERTS = {f"mlp.experts.{{}}.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")}
_ROUTER = {"mlp.gate": "ffn_gate_inp"}
_SHARED = {
    f"mlp.shared_expert.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")
} | {"mlp.shared_expert_gate": "ffn_gate_inp_shexp"}
_EMBEDDED = {"model.embed_tokens": "token_embd"}
_INDEX = re.compile(r"(0|[1-9]\d{0,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One architecture: the first of several modules that share a tensor is what readers get."""

    parts: Mapping[str, str]  # module below a layer -> stem of the tensor; {} is an expert
    permuted: bool = False  # rows of q and k are interleaved, as Meta's rotary embedding has them
    ties: bool = False  # output and input embedding are one where the config does not say
    layers: str = "model.layers."
    ends: Mapping[str, str] = field(default_factory=lambda: _EMBEDDED | {"lm_head": "output"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module's factors go: the tensor, and which expert of it."""

    name: str  # "blk.3.attn_q.weight"
    part: str  # "attn_q"
    block: int | None = None
    expert: int | None = None


_PLAIN = _ATTENTION | _GATED
_WTE = {"transformer.wte": "token_embd", "lm_head": "output"}
ARCHS: Mapping[str, Arch] = {
    "apertus": Arch(parts=_ATTENTION | _UNGATED),
    "arcee": Arch(parts=_ATTENTION | _UNGATED, permuted=True),
    "command-r": Arch(parts=_PLAIN, ties=True, ends=_EMBEDDED),
    "cohere2": Arch(parts=_PLAIN, ties=True, ends=_EMBEDDED),
    "ernie4_5": Arch(parts=_PLAIN, ties=True),
    "exaone4": Arch(parts=_PLAIN),
    "gemma": Arch(parts=_PLAIN, ties=True, ends=_EMBEDDED),
    "gemma2": Arch(parts=_PLAIN, ties=True, ends=_EMBEDDED),
    "gemma3": Arch(parts=_PLAIN, ties=True),
    "glm4": Arch(parts=_ATTENTION | _FUSED),
    "gpt2": Arch(parts=_GPT2, ties=True, layers="transformer.h.", ends=_WTE),
    "granite": Arch(parts=_PLAIN, permuted=True),
    "hunyuan-dense": Arch(parts=_PLAIN),
    "llama": Arch(parts=_PLAIN | _MIXTRAL | _EXPERTS | {
        "block_sparse_moe.gate": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp"}, permuted=True),
    "nemotron": Arch(parts=_ATTENTION | _UNGATED),
    "olmo": Arch(parts=_PLAIN, permuted=True),
    "olmo2": Arch(parts=_PLAIN),
    "olmoe": Arch(parts=_ATTENTION | _EXPERTS | _ROUTER),
    "phi2": Arch(parts={**_QKV, "self_attn.dense": "attn_output", "mlp.fc1": "ffn_up",
                        "mlp.fc2": "ffn_down"}),
    "phi3": Arch(parts={"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
                        **_FUSED}),
    "qwen2": Arch(parts=_PLAIN),
    "qwen2moe": Arch(parts=_ATTENTION | _EXPERTS | _ROUTER | _SHARED),
    "qwen3": Arch(parts=_PLAIN),
    "qwen3moe": Arch(parts=_ATTENTION | _EXPERTS | _ROUTER),
    "seed_oss": Arch(parts=_PLAIN),
    "smollm3": Arch(parts=_PLAIN, permuted=True, ties=True),
    "stablelm": Arch(parts=_PLAIN),
    "starcoder": Arch(parts=_GPT2, ties=True, layers="transformer.h.", ends=_WTE),
    "starcoder2": Arch(parts={**_ATTENTION, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
                       ties=True),
}  # fmt: skip

# transformers' model types whose architecture is called otherwise.
_CALLED = {
    "cohere": "command-r", "gemma3_text": "gemma3", "gpt_bigcode": "starcoder",
    "hunyuan_v1_dense": "hunyuan-dense", "internlm3": "llama", "mistral": "llama",
    "mixtral": "llama", "olmo3": "olmo2", "phi": "phi2", "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}  # fmt: skip


def arch_of(model_type: str) -> str:
    """Give llama.cpp's name of a model type.

    Raises Unsupported where adaptertools does not know how its weights are stored there.
    """
    name = _CALLED.get(model_type, model_type)
    if name not in ARCHS or model_type == "starcoder":
        raise Unsupported(
            f"model_type {shown(model_type) or 'missing'}: no GGUF adapter is written for it, as "
            "llama.cpp stores some of its weights split, transposed or in another order, or does "
            f"not know it. Known: {', '.join(sorted({*ARCHS, *_CALLED}))}. If it is one of these "
            "under another name, pass -o arch=NAME; else merge the adapter."
        )
    return name


def arch(name: str) -> Arch:
    """Give an architecture by llama.cpp's name; raise Unsupported where it is not known."""
    if name not in ARCHS:
        raise Unsupported(
            f"Architecture {shown(name) or 'missing'} is not known to adaptertools, and its "
            f"weights may be reordered. Known: {', '.join(ARCHS)}."
        )
    return ARCHS[name]


def place(known: Arch, target: str) -> Place:
    """Find the tensor of a module; raise Mismatch where the architecture has none for it.

    A module of a bare model (`layers.0…` for `model.layers.0…`) and one of the text model inside
    another (`model.language_model.layers.0…`) are taken for the same.
    """
    text, above = target.replace("language_model.", "", 1), known.layers.partition(".")[0] + "."
    for name in (text, above + text):
        if name in known.ends:
            return Place(f"{known.ends[name]}.weight", known.ends[name])
        block, _, rest = name.removeprefix(known.layers).partition(".")
        if not name.startswith(known.layers) or not _INDEX.fullmatch(block):
            continue
        pieces = rest.split(".")
        at = next((i for i, piece in enumerate(pieces) if _INDEX.fullmatch(piece)), None)
        expert = None if at is None else int(pieces[at])
        if at is not None:
            pieces[at] = "{}"
        part = known.parts.get(".".join(pieces))
        if part:
            return Place(f"blk.{block}.{part}.weight", part, int(block), expert)
    raise Mismatch(
        f"{shown(target)}: llama.cpp has no weight of this module that takes a LoRA. It takes "
        f"{', '.join([*known.ends, *known.parts])}. Train without the module, or merge."
    )


def target(known: Arch, name: str) -> tuple[Place, str]:
    """Find the module of a tensor; an expert's is a template with {} for its number.

    Raises Mismatch where the architecture has no such tensor.
    """
    stem = name.removesuffix(".weight")
    blk, _, rest = stem.partition(".")
    block, _, part = rest.partition(".")
    for module, end in known.ends.items():
        if stem == end:
            return Place(name, end), module
    if blk == "blk" and _INDEX.fullmatch(block):
        for module, found in known.parts.items():
            if found == part:
                return Place(name, part, int(block)), f"{known.layers}{block}.{module}"
    raise Mismatch(f"{shown(name)}: this architecture has no such weight. Is the file damaged?")
