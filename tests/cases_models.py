"""Tiny random base models, one builder per architecture; every parameter is random, none is 0 or 1.

A builder returns the model in float32. Nothing here knows about adapters.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

VOCAB = 96
TOKENS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DECODER: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ENCODER: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

Builder = Callable[[], nn.Module]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter seeded random values; scales of norms lie around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            noise = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.copy_(noise + 1 if is_scale else noise)
    return model.eval()


def build(cls: type[PreTrainedModel], config: type, seed: int = 0, **fields: Any) -> nn.Module:
    """Make a transformers model with random weights."""
    return randomised(cls(config(**fields)), seed)


def llama(cls: type[PreTrainedModel] = LlamaForCausalLM, tied: bool = False) -> Builder:
    """Llama without biases; the head is its own tensor unless `tied`."""
    return partial(build, cls, LlamaConfig, tie_word_embeddings=tied, **DECODER)


def qwen2(tied: bool = False) -> Builder:
    """Qwen2: biases on the q, k and v projections."""
    return partial(build, Qwen2ForCausalLM, Qwen2Config, tie_word_embeddings=tied, **DECODER)


def gpt2(cls: type[PreTrainedModel] = GPT2LMHeadModel, tied: bool = False) -> Builder:
    """GPT-2: `Conv1D` modules, whose weights are stored (in, out)."""
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return partial(build, cls, GPT2Config, tie_word_embeddings=tied, **TOKENS, **shape)


def opt() -> Builder:
    """OPT: biases everywhere, names below `model.decoder`."""
    shape = {k: v for k, v in ENCODER.items() if k != "intermediate_size"}
    fields = {**shape, "ffn_dim": 48, "word_embed_proj_dim": 32}
    return partial(build, OPTForCausalLM, OPTConfig, tie_word_embeddings=False, **fields)


def bert() -> Builder:
    """BERT saved without any head, so without the `bert.` prefix."""
    return partial(build, BertModel, BertConfig, **ENCODER)


def roberta() -> Builder:
    """RoBERTa saved without any head, so without the `roberta.` prefix."""
    return partial(build, RobertaModel, RobertaConfig, **ENCODER)


def distilbert() -> Builder:
    """DistilBERT saved without any head, so without the `distilbert.` prefix."""
    shape = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
    fields = {**shape, "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0}
    return partial(build, DistilBertModel, DistilBertConfig, **fields)


def headless_llama(tied: bool = False) -> Builder:
    """Llama saved by `LlamaModel`: no `model.` prefix, no head."""
    return llama(LlamaModel, tied)


def headless_gpt2() -> Builder:
    """GPT-2 saved by `GPT2Model`: no `transformer.` prefix, no head."""
    return gpt2(GPT2Model)


class Convolutions(nn.Module):
    """One convolution of each kind, none of them grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(12, 20, 3)
        self.point = nn.Conv2d(16, 24, 1)
        self.plane = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.space = nn.Conv3d(6, 10, (1, 2, 3))


class Attention(nn.Module):
    """The module of torch that keeps q, k and v in one bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(32, 4)
        self.head = nn.Linear(32, 8)


def convolutions() -> nn.Module:
    """Random convolutions."""
    return randomised(Convolutions())


def attention() -> nn.Module:
    """Random multi-head attention."""
    return randomised(Attention())
