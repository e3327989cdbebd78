"""What the output is put together from: classes, heads and ties that the files do not spell out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import adaptertools as at
from adaptertools.errors import Mismatch, Unsupported
from tests import handmade

SCORE = {f"{handmade.START}score.weight": handmade.noise(3, 8)}
EMBEDDED = {
    f"{handmade.START}model.embed_tokens.lora_embedding_A": handmade.noise(2, 12),
    f"{handmade.START}model.embed_tokens.lora_embedding_B": handmade.noise(8, 2),
}


def plan(folder: Path, tensors: handmade.Arrays, base: dict[str, Any], **config: Any) -> Any:
    adapter = handmade.adapter(folder / "adapter", tensors, **config)
    return at.plan(adapter, base=handmade.base(folder / "base", **base), out=folder / "out")


def test_a_head_that_was_not_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=r"LlamaForSequenceClassification needs score\.weight"):
        plan(tmp_path, handmade.lora_tensors(), {}, task_type="SEQ_CLS")


def test_a_head_is_known_by_auto_mapping_too(tmp_path: Path) -> None:
    mapping = {"base_model_class": "LlamaForSequenceClassification"}
    tensors = handmade.lora_tensors() | SCORE
    more = {"task_type": None, "modules_to_save": ["score"], "auto_mapping": mapping}
    at.merge(plan(tmp_path, tensors, {}, **more))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert len(config["id2label"]) == 3
    written = load_file(tmp_path / "out" / "model.safetensors")["score.weight"]
    np.testing.assert_array_equal(written, SCORE[f"{handmade.START}score.weight"])


UNKNOWN = {"architectures": ["NobodysForCausalLM"], "model_type": "nobodys",
           "tie_word_embeddings": True}  # fmt: skip


def test_unknown_ties_do_not_matter_where_no_embedding_changes(tmp_path: Path) -> None:
    assert len(plan(tmp_path, handmade.lora_tensors(), UNKNOWN).edits) == 4


@pytest.mark.parametrize("part", ["", "text_config"])
def test_unknown_ties_are_refused_where_an_embedding_changes(part: str, tmp_path: Path) -> None:
    flag = {"tie_word_embeddings": True}
    said = {**UNKNOWN, "tie_word_embeddings": False, part: flag} if part else UNKNOWN
    with pytest.raises(Unsupported, match=r"model\.embed_tokens.*NobodysForCausalLM"):
        plan(tmp_path, handmade.lora_tensors() | EMBEDDED, said)


def test_another_methods_scale_is_not_made_up(tmp_path: Path) -> None:
    config = {"peft_type": "ADALORA", "init_r": 12, "target_r": 8, "r": 8}
    adapter = at.open(handmade.adapter(tmp_path / "a", handmade.lora_tensors(), **config))
    assert {(entry.rank, entry.scale) for entry in adapter.entries} == {(0, 1.0)}
