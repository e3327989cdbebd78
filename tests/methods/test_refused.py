"""What cannot be merged is refused by name, with the reason and what to do instead."""

from pathlib import Path

import pytest

import adaptertools as at
from adaptertools import plugins
from adaptertools.errors import UnknownMethod, Unsupported
from adaptertools.formats import peft as peft_format
from adaptertools.methods import _refused
from adaptertools.methods._lora_forms import LORA_FORMS
from tests import handmade

MERGED = {name.upper() for name in plugins.names("methods")}


def plan(tmp_path: Path, peft_type: str) -> at.MergePlan:
    prompts = {"prompt_embeddings": handmade.noise(4, 8)}
    adapter = handmade.adapter(tmp_path / "adapter", prompts, peft_type=peft_type)
    return at.plan(adapter, base=handmade.base(tmp_path / "base"), out=tmp_path / "out")


@pytest.mark.parametrize("peft_type", sorted(_refused.REFUSED))
def test_no_weight_delta(peft_type: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        plan(tmp_path, peft_type)
    said = _refused.REFUSED[peft_type]
    assert f"is of type {peft_type}, which cannot be merged: {said.why}. {said.instead}." in str(
        caught.value
    )
    assert not (tmp_path / "out").exists()


def test_removed_type_names_its_successor(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"type BONE\. .*0\.19; MISS has its place.*convert-bone"):
        plan(tmp_path, "BONE")


@pytest.mark.parametrize(
    ("peft_type", "near"),
    [("LORRA", "LORA"), ("DE_LORA", "DELORA"), ("PROMPTTUNING", "PROMPT_TUNING")],
)
def test_unknown_type_with_the_nearest(peft_type: str, near: str, tmp_path: Path) -> None:
    said = rf"peft_type {peft_type}, which no PEFT .*Did you mean {near}\? Those .*ADALORA.*WAVEFT"
    with pytest.raises(UnknownMethod, match=said):
        plan(tmp_path, peft_type)


def test_unknown_type_like_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownMethod, match=r"has peft_type \\x1bQQQ, which no PEFT") as caught:
        plan(tmp_path, "\x1bQQQ")
    assert "Did you mean" not in str(caught.value)


def test_every_type_of_the_installed_peft_is_merged_or_refused() -> None:
    peft = pytest.importorskip("peft")
    types = {kind.value for kind in peft.PeftType}
    assert types - MERGED - _refused.REFUSED.keys() == set()
    assert MERGED | (_refused.REFUSED.keys() - _refused.ADAPTERHUB) <= types
    assert not MERGED & (_refused.REFUSED.keys() | _refused.REMOVED.keys())


def test_every_merged_method_says_whether_a_lora_can_hold_it() -> None:
    assert LORA_FORMS.keys() == MERGED


def test_the_reader_knows_their_markers() -> None:
    assert all(peft_format.marker(name) for name in MERGED)
