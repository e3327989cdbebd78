"""Bases for real adapters: random, and as small as the shapes in those adapters allow."""

from functools import partial

from transformers import (
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    OpenAIPrivacyFilterConfig,
    OpenAIPrivacyFilterForTokenClassification,
)

from tests.cases_models import TOKENS, VOCAB, build
from tests.cases_plain import sequence, tokens

GPT2 = partial(build, config=GPT2Config, n_positions=16, **TOKENS)

PRIVACY_FILTER = partial(
    build,
    OpenAIPrivacyFilterForTokenClassification,
    OpenAIPrivacyFilterConfig,
    **TOKENS,
    intermediate_size=16,
    num_local_experts=2,
    num_experts_per_tok=1,
)

DISTILBERT = partial(
    build,
    DistilBertModel,
    DistilBertConfig,
    vocab_size=VOCAB,
    hidden_dim=16,
    max_position_embeddings=16,
)

REAL = (
    sequence(
        "deepbiolab__gpt2-classification-peft_peft_model",
        partial(GPT2, GPT2LMHeadModel),
        {},
        options={"num_labels": 2},
    ),
    sequence(
        "gurvineet__peft-implementation_peft_model_checkpoint-best",
        partial(GPT2, GPT2Model),
        {},
        options={"num_labels": 2},
    ),
    sequence(
        "sdtrklse__lightweight-fine-tuning_peft_model", DISTILBERT, {}, options={"num_labels": 2}
    ),
    tokens("branbot6__sift-opf-zh_adapter", PRIVACY_FILTER, {}, options={"num_labels": 33}),
)
