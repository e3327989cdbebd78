"""Language models without experts."""

from __future__ import annotations

from functools import partial

from tests.cases_recipe import Tensors

from .configs import DECODER, ENCODER, EVEN, SEQ2SEQ, TOKENS
from .recipe import Family, Layout

BOTH: tuple[Layout, ...] = ("saved", "converted")
OLDER: tuple[Layout, ...] = ("saved", "older")
CODED = ("input_ids", "decoder_input_ids")


def without(prefix: str, tensors: Tensors) -> Tensors:
    """Take the base model's prefix off, as a checkpoint of the headless model has it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


TEXT = (
    Family(name="llama", model="LlamaForCausalLM", config=DECODER),
    Family(name="mistral", model="MistralForCausalLM", config=DECODER),
    Family(name="qwen2", model="Qwen2ForCausalLM", config=EVEN),
    Family(name="qwen3", model="Qwen3ForCausalLM", config=DECODER),
    Family(name="gemma2", model="Gemma2ForCausalLM", config=DECODER),
    Family(name="gemma3_text", model="Gemma3ForCausalLM", config=DECODER),
    Family(name="phi3", model="Phi3ForCausalLM", config=EVEN),
    Family(
        name="gpt2",
        model="GPT2LMHeadModel",
        config={**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        layouts=OLDER,
        older=partial(without, "transformer."),
    ),
    Family(name="gpt_neox", model="GPTNeoXForCausalLM", config=ENCODER, layouts=BOTH),
    Family(
        name="opt",
        model="OPTForCausalLM",
        config={**ENCODER, "ffn_dim": 56, "word_embed_proj_dim": 64},
    ),
    Family(name="falcon", model="FalconForCausalLM", config=ENCODER),
    Family(
        name="falcon_new",
        model="FalconForCausalLM",
        config={**ENCODER, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    Family(
        name="bloom",
        model="BloomForCausalLM",
        config={**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        layouts=OLDER,
        older=partial(without, "transformer."),
    ),
    Family(
        name="t5",
        model="T5ForConditionalGeneration",
        config={
            **TOKENS,
            "d_model": 32,
            "d_kv": 12,
            "d_ff": 40,
            "num_layers": 1,
            "num_heads": 4,
            "decoder_start_token_id": 1,
        },
        takes=CODED,
    ),
    Family(
        name="bart",
        model="BartForConditionalGeneration",
        config={**SEQ2SEQ, "max_position_embeddings": 32},
        takes=CODED,
    ),
    Family(name="bert", model="BertForMaskedLM", config=ENCODER),
    Family(
        name="distilbert",
        model="DistilBertForMaskedLM",
        config={**TOKENS, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    Family(name="roberta", model="RobertaForMaskedLM", config=ENCODER),
)
