"""Which names of a model are one tensor, where the table leaves it to transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlavaConfig, MarianConfig, ZambaConfig

from adaptertools.layouts import meta
from adaptertools.layouts.tied import ties
from tests.families.table import FAMILIES

SMALL = {"d_model": 32, "vocab_size": 96, "pad_token_id": 0, "decoder_vocab_size": 96}
MARIAN = {
    shared: MarianConfig(**SMALL, share_encoder_decoder_embeddings=shared).to_dict()
    for shared in (True, False)
}
LLAVA: dict[str, Any] = LlavaConfig(**FAMILIES["llava"].config, tie_word_embeddings=True).to_dict()
VISIBLE = "LlavaForConditionalGeneration"
ZAMBA = ZambaConfig(
    hidden_size=32, layer_types=["mamba", "hybrid", "hybrid"], num_hidden_layers=3,
    num_attention_heads=4, attention_head_dim=16, mamba_dt_rank=4, vocab_size=96,
    intermediate_size=48,
).to_dict()  # fmt: skip


def test_they_follow_the_config_where_it_decides() -> None:
    apart = ties(MARIAN[False], "MarianMTModel", ask=False)
    assert apart == {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    together = ties(MARIAN[True], "MarianMTModel", ask=False)
    assert together is not None
    assert together["model.encoder.embed_tokens.weight"] == "model.shared.weight"


def test_they_may_be_those_of_layers() -> None:
    name = "shared_transf.feed_forward.up_proj.weight"
    found = ties(ZAMBA, "ZambaForCausalLM", ask=False)
    assert found is not None
    assert found[f"model.layers.2.{name}"] == f"model.layers.1.{name}"


def test_a_class_that_the_table_lacks_is_asked_for_only_if_need_be() -> None:
    assert ties(LLAVA, VISIBLE, ask=False) == {}
    head = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    assert ties(LLAVA, VISIBLE, ask=True) == head
    assert ties({**LLAVA, "tie_word_embeddings": False}, VISIBLE, ask=True) == {}


def test_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ties({"model_type": "nonsense"}, "Nonsense", ask=True) is None

    def missing() -> Any:
        raise meta.Unmade

    monkeypatch.setattr(meta, "_imported", missing)
    assert ties(LLAVA, VISIBLE, ask=True) is None
    head = {"lm_head.weight": "model.embed_tokens.weight"}
    assert ties({"tie_word_embeddings": True}, "LlamaForCausalLM", ask=True) == head
