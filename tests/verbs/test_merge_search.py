"""Scales that are searched for: transformers loads them, and they fit better than its own."""

from pathlib import Path

import pytest
import torch

import adaptertools as at
from adaptertools.errors import Unsupported
from tests.cases_recipe import Tensors
from tests.kit_quant import KINDS, PACKINGS, Streets, dequantised, loaded, read, save_packed

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    return Streets(tmp_path_factory.mktemp("streets"))


def error(folder: Path, exact: Tensors) -> float:
    """Give the squared error of all linear weights, decoded by bitsandbytes."""
    held = dequantised(folder)
    names = [name for name in exact if name.endswith("_proj.weight")]
    assert names
    return sum(float((held[n].double() - exact[n].double()).square().sum()) for n in names)


@pytest.mark.parametrize("packing", ["nf4", "nf4_double", "fp4"])
def test_it_fits_better_than_the_largest_magnitude(
    packing: str, streets: Streets, tmp_path: Path
) -> None:
    options = {**PACKINGS[packing].options, "rounding": "search"}
    report = at.merge(
        streets.adapter("llama"), base=streets.base("llama"), out=tmp_path / "out", verify=True,
        **options,
    )  # fmt: skip
    assert report.ok, report.findings
    plain = streets.plain("llama")
    theirs = save_packed(KINDS["llama"], plain, tmp_path / "theirs", PACKINGS[packing])
    loaded("llama", tmp_path / "out")  # nothing missing, nothing left over
    assert error(tmp_path / "out", read(plain)) < 0.97 * error(theirs, read(plain))


def test_the_scales_of_a_packed_base_are_kept(streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.base("llama"), streets.adapter("llama")
    at.merge(adapter, base=base, out=tmp_path / "packed", quant="nf4")
    with pytest.raises(Unsupported, match="--rounding search"):
        at.merge(adapter, base=tmp_path / "packed", out=tmp_path / "out", rounding="search")
    assert not (tmp_path / "out").exists()
