"""Extraction beside its neighbours: merged and found again, stacked, resized, in bounded memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import adaptertools as at
from adaptertools.errors import Unsupported
from tests import handmade
from tests.handmade import Arrays


def doubled(tensors: Arrays) -> Arrays:
    return {name: tensor.astype("f8") for name, tensor in tensors.items()}


def test_what_was_merged_is_extracted_as_the_same_update(tmp_path: Path) -> None:
    base = handmade.base(tmp_path / "base", doubled(handmade.base_tensors()), shards=2)
    lora = handmade.adapter(tmp_path / "lora")
    at.merge(str(lora), base=base, out=tmp_path / "merged")
    found = at.extract(base, tmp_path / "merged", out=tmp_path / "again")
    assert {each["rank"] for each in found.facts["modules"]} == {handmade.RANK}
    pair = at.compare([lora, tmp_path / "again"]).pairs[0]
    assert (pair.likeness, pair.common) == ("gauge", 4)
    assert pair.distance < 1e-6


def test_half_of_it_and_half_of_it_is_it(tmp_path: Path) -> None:
    base = handmade.base(tmp_path / "base")
    new = handmade.merged()
    handmade.base(tmp_path / "tuned", new)
    at.extract(base, tmp_path / "tuned", out=tmp_path / "one", rank="max")
    at.stack([str(tmp_path / "one")], weights=[0.5], out=tmp_path / "half")
    pair = at.compare([tmp_path / "one", tmp_path / "half"]).pairs[0]
    assert pair.cosine == pytest.approx(1, abs=1e-12)
    assert pair.distance == pytest.approx(0.5, abs=1e-6)


def test_a_lower_rank_is_that_of_the_higher_one_resized(tmp_path: Path) -> None:
    base = handmade.base(tmp_path / "base")
    change = {n: t + handmade.noise(*t.shape, seed=9) for n, t in handmade.base_tensors().items()
              if n.endswith("_proj.weight")}  # fmt: skip
    handmade.base(tmp_path / "tuned", handmade.base_tensors() | change)
    for rank in ("2", "max"):
        at.extract(base, tmp_path / "tuned", out=tmp_path / rank, rank=rank)
    at.resize(str(tmp_path / "max"), rank=2, out=tmp_path / "resized")
    assert at.compare([tmp_path / "2", tmp_path / "resized"]).pairs[0].distance < 1e-6


def test_memory_is_bounded_by_one_weight(tmp_path: Path) -> None:
    side = 192

    def peak(layers: int) -> int:
        names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(layers)]
        folder = tmp_path / str(layers)
        for part, seed in (("base", 0), ("tuned", 100)):
            held = {n: handmade.noise(side, side, seed=seed + i) for i, n in enumerate(names)}
            handmade.base(folder / part, held, shards=layers)
        tracemalloc.start()
        at.extract(folder / "base", folder / "tuned", out=folder / "out", rank="max")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)  # what is imported and kept
    one, many = peak(2), peak(16)
    assert many < one + side * side * 4  # not by one weight as it is stored
    assert many < 10 * side * side * 8


def test_a_model_that_can_only_be_saved_whole_is_refused(tmp_path: Path) -> None:
    old = {"model.a.q_proj.weight": np.eye(4, dtype="f4"), "model.a.gamma": np.ones(4, "f4")}
    handmade.base(tmp_path / "base", old)
    handmade.base(tmp_path / "tuned", old | {"model.a.gamma": np.zeros(4, "f4")})
    with pytest.raises(Unsupported, match="no LoRA without one"):
        at.extract(tmp_path / "base", tmp_path / "tuned", out=tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
