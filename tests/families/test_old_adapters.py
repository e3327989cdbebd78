"""LoRAs of transformers 4's names, on checkpoints of either layout.

Their update is B·A of one stored matrix; transformers itself carries the sum to the other layout.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import adaptertools as at
from tests import kit
from tests.cases_recipe import Tensors

from . import old, recipe
from .table import FAMILIES

torch.set_num_threads(1)
ALONE = {"qwen3_moe": ("gate_proj",), "mixtral": ("w3", "w2"), "deepseek_v3": ("up_proj",)}
ROWS = [*old.TARGETS.items(), *ALONE.items()]


def built(folder: Path, name: str, targets: tuple[str, ...]) -> Tensors:
    """Write the base in all its layouts and the adapter; gives the merge in the old layout."""
    family = FAMILIES[name]
    for layout in family.layouts:
        recipe.save_base(family, folder / layout, layout, torch.float32)
    base = kit.read(folder / old.layout_of(family))
    updates = old.save_adapter(folder / "adapter", base, targets)
    assert {t for t in targets if not any(f"{t}.weight" in n for n in updates)} == set()
    return {n: t.double() + updates.get(n, 0) for n, t in base.items()}


@pytest.mark.parametrize(("name", "targets"), ROWS, ids=lambda v: v if v in FAMILIES else "")
def test_old_names_reach_their_weights_in_every_layout(
    name: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    summed = built(tmp_path, name, targets)
    family = FAMILIES[name]
    first = tmp_path / old.layout_of(family)
    for layout in family.layouts:
        out = tmp_path / f"{layout}-out"
        at.merge(tmp_path / "adapter", base=tmp_path / layout, out=out)
        same = layout == old.layout_of(family)
        expected = summed if same else old.laid_out(family, first, summed, layout)
        kit.assert_within_one_ulp(kit.read(out), expected, torch.float32)
