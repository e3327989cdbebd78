"""Names of older checkpoints on newer ones, where transformers needs to see several of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, conversion_mapping
from transformers.core_model_loading import GroupWeightRename, PrefixChange, WeightRenaming

from adaptertools.layouts.converted import Layout, layout
from adaptertools.layouts.pieces import Piece
from tests.families.configs import DECODER

from .rebuilt import specs

torch.set_num_threads(1)

LLAMA = {**LlamaConfig(**DECODER).to_dict(), "architectures": ["LlamaForCausalLM"]}
GATE, UP = (f"model.layers.0.mlp.{n}_proj.weight" for n in ("gate", "up"))
OLD_GATE, OLD_UP = "model.blocks.0.mlp.fc0.weight", "model.blocks.0.mlp.gate_proj.weight"


def found(monkeypatch: pytest.MonkeyPatch, names: list[str], *conversions: Any) -> Layout:
    table = "get_model_conversion_mapping"
    monkeypatch.setattr(conversion_mapping, table, lambda model: list(conversions))
    one = layout(LLAMA, specs({name: torch.zeros(56, 40) for name in names}))
    assert one is not None
    return one


def chained() -> list[Any]:
    """fc0 is now called gate_proj, and what was called gate_proj is now called up_proj."""
    chain = GroupWeightRename(["mlp.fc0", "mlp.gate_proj"], ["mlp.gate_proj", "mlp.up_proj"])
    return [chain, WeightRenaming("blocks", "layers")]


@pytest.mark.parametrize("order", [1, -1])
def test_chained_renames_hold_for_each_name_alone(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(OLD_GATE, GATE), (OLD_UP, UP)][::order]
    newer = found(monkeypatch, [GATE, UP], *chained())
    for old, new in pairs:
        assert newer.find(old) == newer.find(new) == (Piece(tensor=new),)
    older = found(monkeypatch, [OLD_GATE, OLD_UP], *chained())
    for old, new in pairs:
        assert older.find(old) == older.find(new) == (Piece(tensor=old),)


def test_a_prefix_that_older_checkpoints_have(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [PrefixChange(prefix_to_remove="wrapper")]
    newer = found(monkeypatch, [GATE], *changes)
    assert newer.find(f"wrapper.{GATE}") == (Piece(tensor=GATE),)
    older = found(monkeypatch, [f"wrapper.{GATE}"], *changes)
    assert older.find(GATE) == (Piece(tensor=f"wrapper.{GATE}"),)
    assert older.find(GATE.removeprefix("model.")) == (Piece(tensor=f"wrapper.{GATE}"),)
