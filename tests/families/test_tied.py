"""Tied embeddings of which an adapter changes one, or each otherwise: as PEFT's unmerged model.

PEFT's own merge changes all tensors that are tied, whichever was adapted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import adaptertools as at
from adaptertools.errors import Unsupported
from tests import kit

from . import recipe
from .configs import ENCODER
from .recipe import Family, Layout
from .table import FAMILIES

torch.set_num_threads(1)

BOTH = ["embed_tokens", "lm_head"]
# Its checkpoints call the embeddings otherwise, and its head as no embedding is called.
RENAMED = Family(name="ultrabert", model="UltrabertForMaskedLM", config={**ENCODER, "head_dim": 8})
ROWS: tuple[tuple[str, Layout, list[str]], ...] = (
    # An encoder, a decoder and a head, all tied to a tensor that none of them calls its own.
    ("bart", "saved", ["lm_head"]),
    ("bart", "saved", ["decoder.embed_tokens"]),
    ("bart", "saved", ["encoder.embed_tokens", "q_proj"]),
    ("bart", "saved", [*BOTH, "shared"]),
    ("whisper", "saved", ["proj_out"]),
    ("whisper", "saved", ["embed_tokens"]),
    # Classes that only transformers knows, in names that are not the model's.
    ("llava", "saved", ["lm_head"]),
    ("llava", "older", ["embed_tokens"]),
    ("llava", "converted", BOTH),
    ("qwen2_vl", "saved", BOTH),
    ("gemma3", "older", ["embed_tokens"]),
    ("bert", "saved", ["decoder", "query"]),
    ("ultrabert", "saved", ["head.decoder"]),
)


def tied(name: str) -> Family:
    """Give a family with its embeddings tied."""
    family = {**FAMILIES, "ultrabert": RENAMED}[name]
    config: dict[str, Any] = {**family.config, "tie_word_embeddings": True}
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], "tie_word_embeddings": True}
    return replace(family, config=config)


@pytest.mark.parametrize(("name", "layout", "targets"), ROWS, ids=str)
def test_each_module_gets_its_own_change(
    name: str, layout: Layout, targets: list[str], tmp_path: Path
) -> None:
    family = tied(name)
    if not hasattr(transformers, family.model):
        pytest.skip(f"transformers {transformers.__version__} has no {family.model}")
    base, adapter, out = (tmp_path / part for part in ("base", "adapter", "out"))
    recipe.save_base(family, base, layout, torch.float32)
    recipe.save_adapter(family, base, adapter, recipe.lora(family, target_modules=targets))
    at.merge(adapter, base=base, out=out)
    model, said = recipe.load(family, out, output_loading_info=True)
    assert not any(said.values()), said
    wanted = recipe.logits(family, recipe.with_adapter(family, base, adapter))
    kit.assert_same_logits(recipe.logits(family, model), wanted, torch.float32, tolerance=1e-5)
    alone = recipe.logits(family, recipe.load(family, base))
    assert (wanted - alone).abs().max() > 0.01 * wanted.abs().max(), "the adapter changes nothing"


def test_t5_cannot_be_untied_and_says_what_to_do(tmp_path: Path) -> None:
    family = tied("t5")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    recipe.save_base(family, base, "saved", torch.float32)
    recipe.save_adapter(family, base, adapter, recipe.lora(family, target_modules=["lm_head"]))
    with pytest.raises(Unsupported, match=r"a t5 model computes.*--tied keep"):
        at.merge(adapter, base=base, out=tmp_path / "out")
