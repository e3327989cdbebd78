"""A family merged twice, with PEFT in float64 and with the package, and what must then hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import adaptertools as at
from adaptertools.tensorfile import read_header
from tests import kit
from tests.cases_recipe import Tensors

from . import recipe
from .recipe import Family, Layout

Row = tuple[Family, Layout, torch.dtype]


@dataclass(frozen=True)
class Made:
    """A family's files in one layout."""

    family: Family
    dtype: torch.dtype
    folder: Path
    expected: Tensors

    @property
    def out(self) -> Path:
        """The package's own merge."""
        return self.folder / "out"


def rows(families: Iterable[Family], *dtypes: torch.dtype) -> list[Any]:
    """Every family in all its layouts and types."""
    return [
        pytest.param((family, layout, dtype), id=f"{family.name}-{layout}-{str(dtype)[6:]}")
        for family in families
        for layout in family.layouts
        for dtype in dtypes
    ]


def make(row: Row, folder: Path) -> Made:
    """Write base and adapter, and merge them twice."""
    family, layout, dtype = row
    base, adapter = folder / "base", folder / "adapter"
    recipe.save_base(family, base, layout, dtype)
    recipe.save_adapter(family, base, adapter)
    expected = recipe.merged_by_peft(family, base, adapter, folder / "peft", layout)
    at.merge(adapter, base=base, out=folder / "out")
    return Made(family, dtype, folder, expected)


def equals_peft(made: Made) -> None:
    """Hold every tensor against PEFT's, to one unit in the last place."""
    base = kit.read(made.folder / "base")
    changed = {n for n, t in made.expected.items() if not torch.equal(t, base[n].double())}
    pairs = [n for n in kit.read(made.folder / "adapter") if "lora_A" in n]
    assert len(changed) >= len(pairs) > 0
    kit.assert_within_one_ulp(kit.read(made.out), made.expected, made.dtype)


def keeps_the_layout(made: Made) -> None:
    """Hold files, names, shapes, types and the config against the base's."""
    before, after = (
        {path.name: read_header(path).tensors for path in folder.glob("*.safetensors")}
        for folder in (made.folder / "base", made.out)
    )
    assert before.keys() == after.keys()
    for name, specs in before.items():
        kept = {n: (s.dtype, s.shape) for n, s in specs.items()}
        assert {n: (s.dtype, s.shape) for n, s in after[name].items()} == kept
    first, second = (
        json.loads((folder / "config.json").read_text())
        for folder in (made.folder / "base", made.out)
    )
    assert first == second


def runs_alike(made: Made) -> None:
    """Let transformers load all of it, and run it beside PEFT's unmerged adapter."""
    model, said = recipe.load(made.family, made.out, output_loading_info=True)
    assert not any(said.values()), said
    ours = recipe.logits(made.family, model)
    unmerged = recipe.with_adapter(made.family, made.folder / "base", made.folder / "adapter")
    wanted = recipe.logits(made.family, unmerged)
    alone = recipe.logits(made.family, recipe.load(made.family, made.folder / "base"))
    kit.assert_same_logits(ours, wanted, made.dtype, tolerance=1e-5)
    assert (wanted - alone).abs().max() > 0.02 * wanted.abs().max(), "the adapter changes nothing"


def verifies(made: Made) -> None:
    """Let `verify` check every edit by its own arithmetic, and find one changed element."""
    report = at.verify(made.out)
    assert report.ok, report.findings
    pairs = [n for n in kit.read(made.folder / "adapter") if "lora_A" in n]
    assert report.facts["probed"] >= len(pairs) > 0
    base, tensors = kit.read(made.folder / "base"), kit.read(made.out)
    name = next(n for n, t in tensors.items() if not torch.equal(t, base[n]))
    tensors[name].view(-1)[-1] += 1
    file = made.out / "model.safetensors"
    right = file.read_bytes()
    save_file(tensors, file, {"format": "pt"})
    assert not at.verify(made.out).ok
    file.write_bytes(right)
