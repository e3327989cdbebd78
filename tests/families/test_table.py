"""The table of families: it leaves out no layout that transformers writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import kit

from . import recipe
from .recipe import Family
from .table import FAMILIES


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_table_names_every_layout_that_transformers_writes(
    family: Family, tmp_path: Path
) -> None:
    seen = []
    for layout in ("saved", "converted"):
        recipe.save_base(family, tmp_path / layout, layout, torch.float32)
        seen.append({n: t.shape for n, t in kit.read(tmp_path / layout).items()})
    assert (seen[0] != seen[1]) == ("converted" in family.layouts)
    if family.older is not None:
        recipe.save_base(family, tmp_path / "older", "older", torch.float32)
        assert {n: t.shape for n, t in kit.read(tmp_path / "older").items()} not in seen
        names = kit.read(tmp_path / "saved"), family.older(kit.read(tmp_path / "saved"))
        assert [len(n) for n in names] == [len(names[0])] * 2
    assert ("older" in family.layouts) == (family.older is not None)
