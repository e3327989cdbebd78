"""Where a checkpoint holds each parameter: put together again, it is what transformers loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptertools.layouts.converted import Layout, layout
from tests.cases_recipe import Tensors
from tests.families import recipe
from tests.families.table import FAMILIES
from tests.kit import read

from .rebuilt import rebuilt, specs

torch.set_num_threads(1)


@dataclass(frozen=True)
class Disk:
    """One checkpoint, the layout found for it, and the model that transformers loads from it."""

    layout: Layout
    tensors: Tensors
    model: Any


def disk(family: str, kind: recipe.Layout, folder: Path) -> Disk:
    recipe.save_base(FAMILIES[family], folder, kind, torch.float32)
    tensors = read(folder)
    found = layout(json.loads((folder / "config.json").read_text()), specs(tensors))
    assert found is not None
    return Disk(found, tensors, recipe.load(FAMILIES[family], folder, torch.float32))


ROWS = [(name, kind) for name, family in FAMILIES.items() for kind in family.layouts]


@pytest.fixture(scope="module", params=ROWS, ids="-".join)
def it(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """Every family in all its layouts."""
    name, kind = request.param
    return disk(name, kind, tmp_path_factory.mktemp(name))


def test_every_parameter_is_rebuilt_from_every_tensor(it: Disk) -> None:
    covered = set()
    for parameter, value in it.model.named_parameters():
        pieces = it.layout.find(parameter)
        assert pieces, parameter
        assert it.layout.shape(parameter) == tuple(value.shape)
        assert torch.equal(rebuilt(pieces, it.tensors, value.shape), value), parameter
        covered |= {piece.tensor for piece in pieces}
    assert covered == it.tensors.keys() - dict(it.model.named_buffers())


def test_the_prefix_may_be_off(it: Disk) -> None:
    prefix = f"{it.model.base_model_prefix}."
    bare = {n.removeprefix(prefix): n for n, _ in it.model.named_parameters()}
    for short, full in bare.items():
        assert it.layout.find(short) == it.layout.find(full)


def test_modules_are_those_of_the_model(it: Disk) -> None:
    prefix = f"{it.model.base_model_prefix}."
    for path, module in it.model.named_modules():
        own = tuple(n for n, _ in module.named_parameters(recurse=False))
        assert it.layout.parameters(path) == own
        assert it.layout.parameters(path.removeprefix(prefix)) == own
        turned = bool(getattr(module, "is_transposed", False))
        assert it.layout.is_transposed(path) == turned
    assert any(it.layout.parameters(path) for path, _ in it.model.named_modules())


TWO = [name for name, family in FAMILIES.items() if "converted" in family.layouts]


@pytest.mark.parametrize("name", TWO)
def test_the_words_of_one_layout_find_the_other(name: str, tmp_path: Path) -> None:
    saved, other = (disk(name, k, tmp_path / k) for k in ("saved", "converted"))
    for old, value in saved.tensors.items():
        pieces = other.layout.find(old)
        assert pieces, old
        assert torch.equal(rebuilt(pieces, other.tensors, value.shape), value), old
        assert other.layout.shape(old) == tuple(value.shape)
    for new, value in other.tensors.items():
        pieces = saved.layout.find(new)
        assert torch.equal(rebuilt(pieces, saved.tensors, value.shape), value), new


def test_names_that_are_none(tmp_path: Path) -> None:
    it = disk("mixtral", "saved", tmp_path)
    for name in ("", "model", "lm_head", "model.layers.9.self_attn.q_proj.weight",
                 "model.layers.0.block_sparse_moe.experts.7.w1.weight"):  # fmt: skip
        assert it.layout.find(name) == ()
        assert it.layout.shape(name) == ()
    assert it.layout.parameters("model.nothing") == ()
    assert not it.layout.is_transposed("model.nothing")


def test_a_tied_alias_that_is_not_stored_is_none(tmp_path: Path) -> None:
    it = disk("t5", "saved", tmp_path)
    tied = it.model.state_dict().keys() - dict(it.model.named_parameters()) - it.tensors.keys()
    assert tied
    for name in tied:
        assert it.layout.find(name) == ()
