"""Cases of plain LoRA: architectures, kinds of modules, heads, spellings of names, file types."""

from functools import partial
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests.cases_models import (
    attention,
    bert,
    convolutions,
    distilbert,
    gpt2,
    headless_gpt2,
    headless_llama,
    llama,
    opt,
    qwen2,
    roberta,
)
from tests.cases_recipe import case, cast_adapter, edit_config

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def lora(*targets: str, **fields: Any) -> dict[str, Any]:
    """Return the arguments of a `LoraConfig` of rank 4 for a causal language model."""
    shape = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    return {**shape, "target_modules": list(targets), **fields}


causal = partial(case, auto=AutoModelForCausalLM)
sequence = partial(case, auto=AutoModelForSequenceClassification, options={"num_labels": 3})
tokens = partial(case, auto=AutoModelForTokenClassification, options={"num_labels": 5})

seq_lora = partial(lora, task_type="SEQ_CLS")
tok_lora = partial(lora, task_type="TOKEN_CLS")
plain_lora = partial(lora, task_type=None)

ARCHITECTURES = (
    causal("linear_llama", llama(), lora(*LINEAR)),
    causal("linear_llama_sharded", llama(), lora(*LINEAR), shard_size="20KB"),
    causal("linear_llama_head", llama(), lora("q_proj", "lm_head"), shard_size="20KB"),
    causal("attention_llama", llama(), lora(*ATTENTION)),
    causal("all_linear_llama", llama(), lora(target_modules="all-linear")),
    causal("regex_llama", llama(), lora(target_modules=r".*layers\.1\.mlp\.\w+_proj")),
    causal("some_layers", llama(), lora("v_proj", layers_to_transform=[1])),
    causal("linear_qwen2", qwen2(), lora(*LINEAR)),
    causal("linear_opt", opt(), lora("q_proj", "v_proj", "out_proj", "fc1", "fc2")),
    causal("conv1d_gpt2", gpt2(), lora("c_attn", "c_proj", "c_fc"), shard_size="20KB"),
    causal("conv1d_gpt2_head", gpt2(), lora("c_attn", "c_proj", "c_fc", "lm_head")),
    causal(
        "fan_in_fan_out_stale",
        gpt2(),
        lora("c_attn", "c_proj"),
        finish=edit_config(fan_in_fan_out=False),
    ),
)

HEADS = (
    sequence("head_bert", bert(), seq_lora("query", "value"), keys=("classifier.bias",)),
    sequence(
        "head_roberta", roberta(), seq_lora("query", "value"), keys=("classifier.out_proj.bias",)
    ),
    sequence(
        "head_distilbert",
        distilbert(),
        seq_lora("q_lin", "v_lin", modules_to_save=["pre_classifier", "classifier"]),
        keys=("pre_classifier.weight", "classifier.weight"),
    ),
    sequence("head_gpt2", headless_gpt2(), seq_lora("c_attn"), keys=("score.weight",)),
    sequence("head_llama_over_lm_head", llama(), seq_lora("q_proj"), keys=("score.weight",)),
    tokens("token_head_bert", bert(), tok_lora("query", "value"), keys=("classifier.bias",)),
    tokens("token_head_distilbert", distilbert(), tok_lora("q_lin"), keys=("classifier.bias",)),
    tokens("token_head_roberta", roberta(), tok_lora("key", "dense"), keys=("classifier.bias",)),
)

NAMES = (
    causal("base_without_prefix", headless_llama(tied=True), lora(*LINEAR)),
    case(
        "adapter_without_prefix",
        llama(),
        lora(*LINEAR, task_type="FEATURE_EXTRACTION"),
        auto=AutoModel,
        shard_size="20KB",
    ),
    case(
        "adapter_without_prefix_gpt2",
        gpt2(),
        lora("c_attn", "c_proj", task_type="FEATURE_EXTRACTION"),
        auto=AutoModel,
    ),
)

MODULES = (
    case("conv1d", convolutions, plain_lora("line")),
    case("conv2d_1x1", convolutions, plain_lora("point")),
    case("conv2d_3x3", convolutions, plain_lora("plane")),
    case("conv3d", convolutions, plain_lora("space")),
    case(
        "conv_all_biased",
        convolutions,
        plain_lora("line", "point", "plane", "space", lora_bias=True),
    ),
    case(
        "multihead_attention",
        attention,
        plain_lora("mha", "head"),
        keys=("mha.lora_A.weight", "mha.base_layer.out_proj.lora_B.weight"),
        merge_options={"mha_out_proj": "twice"},
    ),
    causal(
        "embedding",
        llama(),
        lora("embed_tokens", "q_proj"),
        keys=("embed_tokens.lora_embedding_A", "embed_tokens.base_layer.weight"),
    ),
    causal("embedding_gpt2", gpt2(), lora("wte", "wpe"), keys=("wte.lora_embedding_B",)),
)

FILES = (
    causal("adapter_float16", llama(), lora(*LINEAR), finish=cast_adapter(torch.float16)),
    causal("adapter_bfloat16", llama(), lora(*LINEAR), finish=cast_adapter(torch.bfloat16)),
    causal("adapter_bfloat16_gpt2", gpt2(), lora("c_attn"), finish=cast_adapter(torch.bfloat16)),
)

PLAIN = ARCHITECTURES + HEADS + NAMES + MODULES + FILES
