"""LoHa: W + s·(A₁·B₁)∘(A₂·B₂), two low-rank products multiplied entry by entry.

FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859. s is alpha / r after the patterns. Shapes on
disk, after peft/tuners/loha/layer.py: w_a (out, r), w_b (r, in), a convolution's kernel flattened
into `in`; with use_effective_conv2d Tucker's form, t (r, r, k, l), w_a (r, out), w_b (r, in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.methods._lycoris import check, rank, scale, shape, tucker
from adaptertools.methods._parts import part
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.formed import Formed

if TYPE_CHECKING:
    from adaptertools.update import Array

__all__ = ["bias_updates", "check", "peft_type", "tensors", "updates"]

peft_type = "LOHA"

tensors = {
    "hada_w1_a": "A of the first product",
    "hada_w1_b": "B of the first product",
    "hada_w2_a": "A of the second product",
    "hada_w2_b": "B of the second product",
    "hada_t1": "core of the first product (r, r, k, l)",
    "hada_t2": "core of the second product (r, r, k, l)",
}


@dataclass(frozen=True, slots=True)
class Hadamard:
    """(A₁·B₁)∘(A₂·B₂): the factors are loaded, the rows are made by range."""

    shape: tuple[int, int]
    pairs: tuple[tuple[TensorSpec, ...], ...]  # (w_a, w_b), or (w_a, w_b, t), twice

    def form(self, dtype: str) -> Callable[[int, int], Array]:
        """Load the factors, and give the function that makes rows."""
        (up, down), (more, other) = (self._pair(pair, dtype) for pair in self.pairs)

        def rows(start: int, stop: int) -> Array:
            made: Array = up[start:stop] @ down
            made *= more[start:stop] @ other
            return made

        return rows

    def _pair(self, specs: tuple[TensorSpec, ...], dtype: str) -> tuple[Array, Array]:
        a, b, *core = (tensorfile.read(spec).astype(dtype) for spec in specs)
        return (a.T, tucker(core[0], b)) if core else (a, b)


def updates(site: Site) -> Iterable[Update]:
    """Give the update of the weight."""
    rows, columns = shape(site)
    return [Formed(Hadamard((rows, columns), tuple(_pair(site, n) for n in "12")), scale(site))]


def _pair(site: Site, name: str) -> tuple[TensorSpec, ...]:
    r, (out, inside), kernel = rank(site), site.weight.shape[:2], site.weight.shape[2:]
    a, b, t = (f"hada_{role}" for role in (f"w{name}_a", f"w{name}_b", f"t{name}"))
    if t in site.entry.parts:
        core = part(site, t, r, r, *(*kernel, 1)[:2])
        return part(site, a, r, out), part(site, b, r, inside), core
    return part(site, a, out, r), part(site, b, r, site.weight.columns)


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
