"""What transformers says of a model type: prefix, orientation, heads, ties. From models.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# transformers.pytorch_utils.Conv1D stores (in, out); these are its modules wherever it is used.
_CONV1D = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})

# Model types whose config forces or ignores tie_word_embeddings, read in transformers 5.23.
_FORCED_TIES = frozenset({"t5", "longt5", "mt5", "umt5", "udop", "csm"})


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("models.json").read_text("utf-8"))
    return table


def model(model_type: str) -> Mapping[str, Any]:
    """Give what is known of a model type; empty where nothing is."""
    found: Mapping[str, Any] = _table()["models"].get(model_type, {})
    return found


def architecture(name: str) -> Mapping[str, Any]:
    """Give what is known of a model class; empty where nothing is."""
    found: Mapping[str, Any] = _table()["classes"].get(name, {})
    return found


def prefix(config: Mapping[str, Any]) -> str:
    """Give the base-model prefix: `model`, `transformer`, `bert` …"""
    return str(model(str(config.get("model_type"))).get("prefix", "model"))


def stores_in_out(module: str, config: Mapping[str, Any]) -> bool | None:
    """Tell whether the base stores this module's weight as (in, out); None where nothing says so.

    Declared by the model type of the config, or of the nested config that the module lies under.
    """
    if module.rpartition(".")[2] not in _CONV1D:
        return False
    kind = model(str(config.get("model_type")))
    if kind.get("conv1d"):
        return True
    for part, nested in config.items():
        if isinstance(nested, dict) and model(str(nested.get("model_type"))).get("conv1d"):
            return f".{module}".find(f".{part.removesuffix('_config')}.") >= 0
    return False if kind else None


def ties(config: Mapping[str, Any], name: str) -> dict[str, str]:
    """Give the tied tensors of a model class (alias -> source); empty where they are untied."""
    facts = architecture(name)
    nested = [c for c in config.values() if isinstance(c, dict)]
    flags = [c["tie_word_embeddings"] for c in (config, *nested) if "tie_word_embeddings" in c]
    tied = flags[0] if flags else facts.get("tie_default", True)
    return dict(facts.get("tied", {})) if tied else {}


def untied_changes_forward(config: Mapping[str, Any]) -> bool:
    """Tell whether a model that is untied would compute something else, or not be untied at all."""
    kind = str(config.get("model_type"))
    return kind in _FORCED_TIES or bool(model(kind).get("rescales_when_tied"))
