"""A real Stable Diffusion LoRA that its author published in PEFT's and in diffusers' spelling.

Kept out of the repository, as it has no licence; see specs/validation.md of the shared folder.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import adaptertools as at
from adaptertools.formats.diffusers import NAME
from adaptertools.formats.peft import WEIGHTS

ADAPTERS = Path(__file__).parents[2].parent / "shared" / "data" / "adapters"


@pytest.fixture(scope="module")
def both() -> Path:
    """Give the folder that holds the two files."""
    found = [p.parent for p in ADAPTERS.glob("FaithSang*/**/*") if p.name == NAME]
    if not found:
        pytest.skip("no shared copy of the Stable Diffusion adapter")
    return found[0]


def same(one: Path, two: Path) -> None:
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_each_becomes_the_other(both: Path, tmp_path: Path) -> None:
    (folder,) = {path.parent for path in both.parent.rglob(WEIGHTS)} | {
        path.parent for path in both.rglob(WEIGHTS)
    }
    at.convert(folder, source="peft", to="diffusers", out=tmp_path / "one")
    same(both / NAME, tmp_path / "one" / NAME)
    at.convert(both / NAME, to="peft", out=tmp_path / "two")
    same(folder / WEIGHTS, tmp_path / "two" / WEIGHTS)
    scales = [{e.target: e.scale for e in at.open(p, format="peft").entries}
              for p in (folder, tmp_path / "two")]  # fmt: skip
    assert scales[0] == scales[1]
