"""A classifier trained on a base that was saved without the pooler below it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

import adaptertools as at
from adaptertools.errors import Mismatch
from tests import kit
from tests.cases_recipe import quiet

from . import recipe
from .table import FAMILIES

BERT = FAMILIES["bert"]


def train(folder: Path, model: str, *saved: str) -> dict[str, torch.Tensor]:
    """Write a BERT of some class, and a classifier with LoRA; gives PEFT's merge in float64."""
    recipe.save_base(replace(BERT, model=model), folder / "base", "saved", torch.float32)
    config = recipe.lora(
        BERT, target_modules=["query", "value"], task_type="SEQ_CLS", modules_to_save=list(saved)
    )
    with quiet():
        bert = BertForSequenceClassification.from_pretrained(folder / "base", num_labels=5)
        trained = get_peft_model(bert, config)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in trained.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.1)
        trained.save_pretrained(folder / "adapter")
        merged: dict[str, torch.Tensor] = trained.double().merge_and_unload().state_dict()
    return merged


@pytest.mark.parametrize(
    ("model", "saved"),
    [("BertModel", ["classifier"]), ("BertForMaskedLM", ["classifier", "pooler"])],
)
def test_all_of_it_is_in_the_merged_model(model: str, saved: list[str], tmp_path: Path) -> None:
    expected = train(tmp_path, model, *saved)
    at.merge(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "out")
    with quiet():
        found, said = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "out", output_loading_info=True
        )
    assert not said["missing_keys"]
    held = {n: t for n, t in found.state_dict().items() if t.is_floating_point()}
    kit.assert_within_one_ulp(held, {n: expected[n] for n in held}, torch.float32)


def test_a_pooler_that_is_nowhere_is_not_left_random(tmp_path: Path) -> None:
    train(tmp_path, "BertForMaskedLM", "classifier")
    with pytest.raises(Mismatch, match=r"needs bert\.pooler\.dense\..*was random in training"):
        at.merge(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
