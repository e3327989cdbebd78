"""The committed table of model types agrees with the installed transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).parents[2] / "adaptertools" / "layouts" / "models.json"


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def differences(recorded: dict[str, Any], actual: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what is recorded and what is so, by the name of the model type or class."""
    pairs = {name: (recorded.get(name), actual.get(name)) for name in {*recorded, *actual}}
    return {name: pair for name, pair in sorted(pairs.items()) if pair[0] != pair[1]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers' own making, not the table's
def test_table_agrees_with_transformers(table: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    installed, recorded = transformers.__version__, table["transformers"]
    if installed.split(".")[:2] != recorded.split(".")[:2]:
        pytest.skip(f"the table is of transformers {recorded}, installed is {installed}")
    from . import generate_models

    actual = generate_models.facts()
    assert differences(table["models"], actual["models"]) == {}
    assert differences(table["classes"], actual["classes"]) == {}


def test_every_head_and_class_has_a_home(table: dict[str, Any]) -> None:
    named = {name for entry in table["models"].values() for name in entry["heads"].values()}
    assert set(table["classes"]) <= named


@pytest.mark.parametrize(
    ("model_type", "prefix"),
    [("llama", "model"), ("gpt2", "transformer"), ("gpt_neox", "gpt_neox"), ("bert", "bert")],
)
def test_known_prefixes(table: dict[str, Any], model_type: str, prefix: str) -> None:
    assert table["models"][model_type]["prefix"] == prefix


def test_known_facts(table: dict[str, Any]) -> None:
    assert table["models"]["gpt2"]["conv1d"] is True
    assert "conv1d" not in table["models"]["llama"]
    assert table["models"]["t5"]["rescales_when_tied"] is True
    assert table["classes"]["LlamaForSequenceClassification"]["head"] == ["score.weight"]
    llama = {"lm_head.weight": "model.embed_tokens.weight"}
    assert table["classes"]["LlamaForCausalLM"] == {"tie_default": False, "tied": llama}
    assert table["classes"]["GemmaForCausalLM"] == {"tie_default": True, "tied": llama}
