"""LoKr: W + s·w₁⊗w₂, a Kronecker product.  https://arxiv.org/abs/2309.14859

s is alpha / r after the patterns; r is the config's, the tensors need not show it. Each factor is
whole, or a low-rank product w_a·w_b, and w₂ of a convolution may be in Tucker's form. Shapes on
disk, after peft/tuners/lokr/layer.py: w₁ (a, c), w₂ (b, d, *k) with out = a·b and in = c·d. PEFT
multiplies a whole w₂ (b, d, k) of a Conv1d with its axes shifted by one, in training too; so here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._lycoris import check, rank, scale, shape, tucker
from adaptertools.methods._parts import part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.formed import Formed

if TYPE_CHECKING:
    from adaptertools.update import Array

__all__ = ["bias_updates", "check", "peft_type", "tensors", "updates"]

peft_type = "LOKR"

tensors = {
    "lokr_w1": "first factor (a, c)",
    "lokr_w1_a": "left part of the first factor (a, r)",
    "lokr_w1_b": "right part of the first factor (r, c)",
    "lokr_w2": "second factor (b, d, *k)",
    "lokr_w2_a": "left part of the second factor (b, r), or (r, b) beside a core",
    "lokr_w2_b": "right part of the second factor (r, d·k), or (r, d) beside a core",
    "lokr_t2": "core of the second factor (r, r, k, l)",
}


@dataclass(frozen=True, slots=True)
class Kronecker:
    """w₁⊗w₂: the factors are loaded, the rows are made by range."""

    shape: tuple[int, int]
    first: tuple[TensorSpec, ...]  # whole, or its parts
    second: tuple[TensorSpec, ...]  # whole, its parts, or its parts and the core

    def form(self, dtype: str) -> Callable[[int, int], Array]:
        """Load the factors, and give the function that makes rows."""
        import numpy as np

        one, two = _whole(self.first, dtype), _whole(self.second, dtype)
        if two.ndim == 3:  # a Conv1d's: the whole is as large as its weight
            shifted = np.einsum("ac,bdk->badck", one, two).reshape(self.shape)
            return lambda start, stop: shifted[start:stop].copy()
        two = two.reshape(len(two), -1)

        def rows(start: int, stop: int) -> Array:
            a, b = np.divmod(np.arange(start, stop), len(two))
            made: Array = (one[a][:, :, None] * two[b][:, None, :]).reshape(stop - start, -1)
            return made

        return rows


def _whole(specs: tuple[TensorSpec, ...], dtype: str) -> Array:
    a, *rest = (tensorfile.read(spec).astype(dtype) for spec in specs)
    if not rest:
        return a
    return a.T @ tucker(rest[1], rest[0]) if len(rest) > 1 else a @ rest[0]


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    fits, one, two = shape(site), _factor(site, "1"), _factor(site, "2")
    out, inside = _size(one), _size(two)
    if (out[0] * inside[0], out[1] * inside[1]) != fits:
        raise Mismatch(
            f"{shown(site.entry.target)}: LoKr's factors are {out[0]}×{out[1]} and "
            f"{inside[0]}×{inside[1]}, whose product is no {fits[0]}×{fits[1]}. "
            "Pass the base that it was trained on as --base."
        )
    return [Formed(Kronecker(fits, one, two), scale(site))]


def _factor(site: Site, name: str) -> tuple[TensorSpec, ...]:
    whole, core, r = f"lokr_w{name}", f"lokr_t{name}", rank(site)
    if whole in site.entry.parts:
        return (part(site, whole),)
    if core in site.entry.parts:
        t = part(site, core, r, r, *(*site.weight.shape[2:], 1)[:2])
        return part(site, f"{whole}_a", r, None), part(site, f"{whole}_b", r, None), t
    return part(site, f"{whole}_a", None, r), part(site, f"{whole}_b", r, None)


def _size(specs: tuple[TensorSpec, ...]) -> tuple[int, int]:
    """Give the rows and columns of a factor as a matrix."""
    if len(specs) == 3:
        return specs[0].columns, specs[1].columns * prod(specs[2].shape[2:])
    return specs[0].rows, specs[-1].columns


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
