"""Prefix, orientation and ties of a model type, from the table and the base's own config."""

from typing import Any

import pytest

from adaptertools.layouts import known

GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
HEAD = {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("config", "prefix"),
    [(GPT2, "transformer"), (LLAMA, "model"), ({"model_type": "bert"}, "bert"), ({}, "model"),
     ({"model_type": "nonsense"}, "model"), ({"model_type": None}, "model"),
     ({"model_type": ["x"]}, "model")],
)  # fmt: skip
def test_prefix(config: dict[str, Any], prefix: str) -> None:
    assert known.prefix(config) == prefix


def test_nothing_is_known_of_nonsense() -> None:
    assert known.model("nonsense") == known.architecture("Nonsense") == {}


@pytest.mark.parametrize("module", ["c_attn", "c_proj", "c_fc", "q_attn"])
def test_conv1d_modules_are_stored_in_out_where_the_model_type_says_so(module: str) -> None:
    name = f"transformer.h.0.x.{module}"
    assert known.stores_in_out(name, GPT2) is True
    assert known.stores_in_out(name, LLAMA) is False
    assert known.stores_in_out(name, {}) is None
    assert known.stores_in_out(name, {"model_type": "nonsense"}) is None


@pytest.mark.parametrize("module", ["lm_head", "h.0.attn.q_proj", "h.0.c_attn.inner", "my_c_fc"])
def test_other_modules_never_are(module: str) -> None:
    for config in (GPT2, LLAMA, {}):
        assert known.stores_in_out(module, config) is False


def test_nested_configs_declare_their_own_part() -> None:
    config = {"model_type": "llava", "text_config": GPT2, "vision_config": {"model_type": "clip"}}
    assert known.stores_in_out("text.h.0.attn.c_attn", config) is True
    assert known.stores_in_out("model.text.h.0.attn.c_attn", config) is True
    assert known.stores_in_out("vision.h.0.attn.c_attn", config) is False


def test_ties_follow_the_class_and_the_config() -> None:
    llama, gemma = "LlamaForCausalLM", "GemmaForCausalLM"
    assert known.ties({}, llama) == {}  # untied unless the config says so
    assert known.ties({"tie_word_embeddings": True}, llama) == HEAD
    assert known.ties({"tie_word_embeddings": False}, llama) == {}
    assert known.ties({}, gemma) == HEAD  # tied unless the config says so
    assert known.ties({"tie_word_embeddings": False}, gemma) == {}
    assert known.ties({"tie_word_embeddings": True}, "Nonsense") == {}


def test_the_outer_config_decides_before_a_nested_one() -> None:
    nested = {"text_config": {"tie_word_embeddings": True}}
    assert known.ties(nested, "LlamaForCausalLM") == HEAD
    assert known.ties({**nested, "tie_word_embeddings": False}, "LlamaForCausalLM") == {}


def test_a_tie_is_not_shared_with_the_table() -> None:
    known.ties({"tie_word_embeddings": True}, "LlamaForCausalLM").clear()
    assert known.ties({"tie_word_embeddings": True}, "LlamaForCausalLM") == HEAD


@pytest.mark.parametrize(
    ("config", "changes"),
    [(LLAMA, False), (GPT2, False), ({"model_type": "t5"}, True), ({"model_type": "umt5"}, True),
     ({"model_type": "bart", "is_encoder_decoder": True}, False), ({}, False)],
)  # fmt: skip
def test_models_that_untying_would_change(config: dict[str, Any], changes: bool) -> None:
    assert known.untied_changes_forward(config) is changes
