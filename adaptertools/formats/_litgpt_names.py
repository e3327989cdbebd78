"""Which modules of transformers LitGPT's are, and which of them are several in one.

Facts from litgpt/scripts/convert_hf_checkpoint.py; the family goes by the model's name, as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from adaptertools.errors import Unsupported, shown
from adaptertools.formats._litgpt_model import Model

QKV = "attn.qkv"


@dataclass(frozen=True, slots=True)
class Family:
    """Names of one family; those of a layer without the layer."""

    layer: str
    names: Mapping[str, str]
    qkv: tuple[str, ...]  # of q, k and v; one name is that of all three
    turned: bool = False  # the rows of q, k and v lie beside each other, by groups of heads
    joined: str = ""  # what fc_1 and fc_2 are one after the other in


@dataclass(frozen=True, slots=True)
class Part:
    """A block of rows of a transformers module that is one of LitGPT's, or a part of its qkv."""

    module: str  # LitGPT's, in full
    slot: str  # "q", "k", "v", or ""
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Place:
    """A transformers module and what it is made of, from the top row on."""

    target: str
    parts: tuple[Part, ...]
    turned: bool = False


_LLAMA = Family(
    layer="model.layers.{}.",
    names={
        "attn.proj": "self_attn.o_proj", "mlp.fc_1": "mlp.gate_proj", "mlp.fc_2": "mlp.up_proj",
        "mlp.proj": "mlp.down_proj",
    },
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
)  # fmt: skip
_MIXTRAL = replace(_LLAMA, names={
    "attn.proj": "self_attn.o_proj", "mlp.gate": "block_sparse_moe.gate",
    "mlp.experts.{}.fc_1": "block_sparse_moe.experts.{}.w1",
    "mlp.experts.{}.fc_2": "block_sparse_moe.experts.{}.w3",
    "mlp.experts.{}.proj": "block_sparse_moe.experts.{}.w2",
})  # fmt: skip
_QWEN_EXPERTS = replace(_LLAMA, names={
    "attn.proj": "self_attn.o_proj", "mlp.gate": "mlp.gate",
    "mlp.experts.{}.fc_1": "mlp.experts.{}.gate_proj",
    "mlp.experts.{}.fc_2": "mlp.experts.{}.up_proj",
    "mlp.experts.{}.proj": "mlp.experts.{}.down_proj",
})  # fmt: skip
_PHI = replace(
    _LLAMA,
    names={"attn.proj": "self_attn.dense", "mlp.fc": "mlp.fc1", "mlp.proj": "mlp.fc2"},
)
_PHI3 = Family(
    layer="model.layers.{}.", qkv=("self_attn.qkv_proj",), joined="mlp.gate_up_proj",
    names={"attn.proj": "self_attn.o_proj", "mlp.proj": "mlp.down_proj"},
)  # fmt: skip
_NEOX = Family(
    layer="gpt_neox.layers.{}.", qkv=("attention.query_key_value",), turned=True,
    names={
        "attn.proj": "attention.dense", "mlp.fc": "mlp.dense_h_to_4h",
        "mlp.proj": "mlp.dense_4h_to_h",
    },
)  # fmt: skip
_FALCON = replace(
    _NEOX, layer="transformer.h.{}.", qkv=("self_attention.query_key_value",),
    names={**_NEOX.names, "attn.proj": "self_attention.dense"},
)  # fmt: skip

# Beginnings of names in lower case, the first that fits; then the class of the MLP.
_BY_NAME = {"phi-3": _PHI3, "phi-4": _PHI3, "phi": _PHI}
_BY_MLP = {"LLaMAMLP": _LLAMA, "GemmaMLP": _LLAMA, "LLaMAMoE": _MIXTRAL, "GptNeoxMLP": _NEOX}


def family(model: Model) -> Family:
    """Tell the family; raise Unsupported where LitGPT's own converter knows none."""
    name = model.name.lower()
    if "falcon" in name:
        return _FALCON
    if model.kind == "LLaMAMoE" and name.startswith("qwen3"):
        return _QWEN_EXPERTS
    found = next((f for start, f in _BY_NAME.items() if name.startswith(start)), None)
    found = found or _BY_MLP.get(model.kind)
    if found is None:
        raise Unsupported(
            f"{shown(model.file)}: a model with {shown(model.kind)} has no names in transformers "
            "that LitGPT's converter knows. Merge it with LitGPT."
        )
    return found


def places(model: Model) -> Iterator[Place]:
    """Give every module of transformers that LitGPT's LoRA can adapt."""
    kind = family(model)
    yield Place("lm_head", (Part("lm_head", "", *model.shape("lm_head")),))
    for at in range(model.count("n_layer")):
        layer, start = kind.layer.format(at), f"transformer.h.{at}."
        slots = [Part(start + QKV, slot, model.rows(slot), model.width) for slot in "qkv"]
        if len(kind.qkv) == 1:
            yield Place(layer + kind.qkv[0], tuple(slots), kind.turned)
        else:
            for name, part in zip(kind.qkv, slots, strict=True):
                yield Place(layer + name, (part,))
        if kind.joined:
            both = (Part(f"{start}{m}", "", *model.shape(m)) for m in ("mlp.fc_1", "mlp.fc_2"))
            yield Place(layer + kind.joined, tuple(both))
        for module, name in kind.names.items():
            for expert in range(model.count("n_expert") if "{}" in module else 1):
                own = module.format(expert)
                yield Place(
                    layer + name.format(expert), (Part(start + own, "", *model.shape(own)),)
                )
