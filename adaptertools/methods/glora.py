"""GLoRA: W + W ∘ A + B, and b + b ∘ D + E + W·C.  https://arxiv.org/abs/2306.07967

After peft/tuners/glora/layer.py, each of A to E is stored in one of four ways: a product
`Xd` (out, r) · `Xu` (r, in), a vector `X` (out, 1) for every column, one number `X` for all, or
`zeros`. C (in, 1), D and E (out) act on a bias; layers without one have zeros there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools import tensorfile
from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.methods._parts import features, part
from adaptertools.methods._table import ones, table
from adaptertools.tensorfile import BITS
from adaptertools.update import Update
from adaptertools.update.coupled import Coupled
from adaptertools.update.lowrank import LowRank
from adaptertools.update.modulated import Modulated

peft_type = "GLORA"

tensors = {
    f"glora_{letter}.{kind}": f"{what} of {letter}"
    for letter in "ABCDE"
    for kind, what in {
        "Xd": "up projection", "Xu": "down projection", "X": "vector or number", "zeros": "nothing",
    }.items()
}  # fmt: skip


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: the tensors say which way each of A to E is stored."""


def updates(site: Site) -> Iterator[Update]:
    """Give the updates of the weight."""
    outputs, inputs = features(site, conv1d=False)
    if by := _path(site, "A", outputs, inputs):
        yield Modulated(by)
    if by := _path(site, "B", outputs, inputs):
        yield by
    for letter in "CDE":
        if site.bias is None and _path(site, letter, inputs if letter == "C" else outputs, 1):
            raise Mismatch(
                f"{shown(site.entry.target)} has a glora_{letter}, and the base has no bias there. "
                "Pass the base that it was trained on as --base."
            )


def bias_updates(site: Site) -> Iterator[Update]:
    """Give the updates of the bias."""
    if site.bias is None:
        return
    outputs, inputs = features(site, conv1d=False)
    if by := _path(site, "C", inputs, 1):
        if site.weight.nbytes * 8 != outputs * inputs * BITS[site.weight.dtype]:
            raise Unsupported(
                f"{shown(site.entry.target)}: glora_C adds a part of the weight to the bias, and "
                "the base has that weight packed. Pass the 16-bit model as --base."
            )
        yield Coupled(Factor(site.weight), by)
    if by := _path(site, "D", outputs, 1):
        yield Modulated(by)
    if by := _path(site, "E", outputs, 1):
        yield by


def _path(site: Site, letter: str, rows: int, columns: int) -> LowRank | None:
    """Give one of A to E as a product, None where it is zero."""
    name, parts = f"glora_{letter}", site.entry.parts
    if f"{name}.zeros" in parts:
        if tensorfile.read(part(site, f"{name}.zeros")).any():
            raise Unsupported(f"{shown(site.entry.target)}: {name}.zeros is not zero.")
        return None
    if f"{name}.Xd" in parts:
        up = Factor(part(site, f"{name}.Xd", rows, None))
        return LowRank(up, Factor(part(site, f"{name}.Xu", up.shape[1], columns)), site.scale)
    spec = part(site, f"{name}.X")
    if spec.shape not in ((1,), (rows,), (rows, 1)):
        part(site, f"{name}.X", rows, 1)
    return LowRank(table(spec, rows, 1), ones(columns), site.scale)
