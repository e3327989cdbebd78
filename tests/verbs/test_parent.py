"""The 16-bit original of a packed base: how it is found, and how far the packed one is from it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools import checkpoint
from adaptertools.errors import Mismatch, NotFound, Unsupported
from adaptertools.verbs import _parent
from adaptertools.verbs._quantise import Wanted, recognise
from tests.kit_quant import PACKINGS, Streets, read

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    return Streets(tmp_path_factory.mktemp("streets"))


def guess(name: str, *bases: str | None) -> str:
    base = checkpoint.Checkpoint(ref=name, folder="", config={}, shards={}, index=None)

    class Named:
        def __init__(self, base: str | None) -> None:
            self.base = base

    return _parent._guess(base, [Named(b) for b in bases])  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("unsloth/Llama-3.2-1B-unsloth-bnb-4bit", "unsloth/Llama-3.2-1B"),
        ("unsloth/Llama-3.2-1B-bnb-4bit", "unsloth/Llama-3.2-1B"),
        ("org/model-bnb-8bit", "org/model"),
        ("org/model-4bit", "org/model"),
        ("org/model-8BIT", "org/model"),
        ("org/model-NF4", "org/model"),
        ("org/model-FP8", "org/model"),
        ("models/tiny-int8", "models/tiny"),
    ],
)
def test_names_of_packed_models(name: str, parent: str) -> None:
    assert guess(name) == parent
    assert guess("somewhere/else", None, name) == parent


@pytest.mark.parametrize("name", ["org/model", "org/model-4bit-v2", "org/4bit", "model-AWQ", ""])
def test_names_that_tell_nothing(name: str) -> None:
    with pytest.raises(NotFound, match="--original"):
        guess(name)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kind", ["llama", "bert", "opt_projected"])
def test_the_distance_is_the_one_that_bitsandbytes_shows(
    kind: str, packing: str, streets: Streets
) -> None:
    from tests.kit_quant import dequantised

    base = checkpoint.read(streets.packed(kind, packing), "packed")
    parent = checkpoint.read(streets.base(kind), "parent")
    found = _parent.distance(parent, recognise(base))
    before, after = read(streets.base(kind)), dequantised(streets.packed(kind, packing))
    errors = sorted(
        float(
            torch.linalg.norm(after[n] - before[n].double()) / torch.linalg.norm(before[n].double())
        )
        for n in recognise(base)
    )
    middle = (errors[len(errors) // 2] + errors[(len(errors) - 1) // 2]) / 2
    assert found == pytest.approx(middle, rel=1e-4)


def test_another_model_of_the_same_shape_is_far_away(streets: Streets, tmp_path: Path) -> None:
    """Shapes agree, values do not: the plan shows it."""
    shutil.copytree(streets.base("llama"), tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    save_file({n: t.flip(0) for n, t in load_file(file).items()}, file, {"format": "pt"})
    plan = at.plan(
        streets.adapter("llama"), base=streets.packed("llama", "nf4"), out=tmp_path / "out",
        base_weights="original", original=tmp_path / "other",
    )  # fmt: skip
    text = next(f.text for f in plan.findings if f.code == "MRG046")
    assert float(text.partition("by ")[2].partition("%")[0]) > 100


def opened(folder: Path) -> tuple[checkpoint.Checkpoint, Any]:
    base = checkpoint.read(folder, str(folder))
    return base, recognise(base)


def test_what_is_no_original(streets: Streets, tmp_path: Path) -> None:
    base, packed = opened(streets.packed("llama", "nf4"))
    with pytest.raises(Unsupported, match="packed as well"):
        _parent.original(base, packed, streets.packed("llama", "int8"), [])
    with pytest.raises(Mismatch, match="14 weights are missing"):
        _parent.original(base, packed, streets.base("opt"), [])
    with pytest.raises(NotFound, match="no such folder"):
        _parent.original(base, packed, tmp_path / "none", [])
    plain, nothing = opened(streets.base("llama"))
    with pytest.raises(Unsupported, match="not packed"):
        _parent.original(plain, nothing, streets.base("llama"), [])


def test_conv1d_is_held_against_its_transpose(streets: Streets) -> None:
    base, packed = opened(streets.packed("gpt2", "nf4"))
    parent = _parent.original(base, packed, streets.base("gpt2"), [])
    assert parent.folder == str(streets.base("gpt2"))
    with pytest.raises(Mismatch):
        _parent.original(*opened(streets.packed("llama", "nf4")), streets.base("gpt2"), [])


@pytest.mark.parametrize("packing", PACKINGS)
def test_to_keep_is_to_pack_as_the_base_is(packing: str, streets: Streets) -> None:
    _, packed = opened(streets.packed("llama", packing))
    found = _parent.settings(packed, Wanted())
    wanted = PACKINGS[packing]
    assert found.kind == wanted.quant
    assert bool(found.double_quant) == wanted.double
    assert found.block_size == (None if wanted.quant == "int8" else 64)
    other = Wanted(quant="none")
    assert _parent.settings(packed, other) == other
    if wanted.quant != "int8":
        own = _parent.settings(packed, Wanted(double_quant=not wanted.double, block_size=128))
        assert (own.double_quant, own.block_size) == (not wanted.double, 128)


def test_a_block_size_of_its_own_is_kept(streets: Streets, tmp_path: Path) -> None:
    at.merge(
        streets.adapter("llama"), base=streets.base("llama"), out=tmp_path / "base", quant="fp4",
        block_size=256,
    )  # fmt: skip
    out = tmp_path / "out"
    at.merge(
        streets.adapter("llama"), base=tmp_path / "base", out=out, base_weights="original",
        original=streets.base("llama"),
    )  # fmt: skip
    codecs = {p.codec.block_size for p in opened(out)[1].values()}
    assert codecs == {256}
