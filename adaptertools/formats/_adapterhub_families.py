"""Where AdapterHub's LoRA and (IA)³ can be in a model, and which of its switches turn them on.

Facts from adapters/models/*/mixin_*.py of 1.3.0. In Llama and Mistral the library takes
`down_proj` for its intermediate layer and `up_proj` for its output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SWITCHES = {"q": "selfattn_lora", "k": "selfattn_lora", "v": "selfattn_lora",
            "i": "intermediate_lora", "o": "output_lora"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """Modules of a layer by name: q, k and v of the attention, i(ntermediate) and o(utput)."""

    layer: str  # what the list of layers is called
    modules: Mapping[str, str]
    count: str = "num_hidden_layers"


_LLAMA = Family("layers", {
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v",
    "mlp.down_proj": "i", "mlp.up_proj": "o",
})  # fmt: skip
_BERT = Family("layer", {
    "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
    "intermediate.dense": "i", "output.dense": "o",
})  # fmt: skip
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA, "mistral": _LLAMA, "bert": _BERT, "electra": _BERT, "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": Family("layer", {
        "attention.q_lin": "q", "attention.k_lin": "k", "attention.v_lin": "v",
        "ffn.lin1": "i", "ffn.lin2": "o",
    }, "n_layers"),
    "gpt2": Family("h", {"attn.c_attn": "qkv", "mlp.c_fc": "i", "mlp.c_proj": "o"}, "n_layer"),
}  # fmt: skip
