"""LoHa: W + s·(A₁·B₁)∘(A₂·B₂), two low-rank products multiplied entry by entry.

FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859. s is alpha / r after the patterns. Shapes on
disk, after peft/tuners/loha/layer.py: w_a (out, r), w_b (r, in), a convolution's kernel flattened
into `in`; with use_effective_conv2d Tucker's form, t (r, r, k, l), w_a (r, out), w_b (r, in).
"""

from __future__ import annotations

from collections.abc import Iterable

from adaptertools.adapter import Site
from adaptertools.methods._hadamard import Hadamard
from adaptertools.methods._lycoris import check as check
from adaptertools.methods._lycoris import rank, scale, shape
from adaptertools.methods._parts import part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.formed import Formed

peft_type = "LOHA"

tensors = {
    "hada_w1_a": "A of the first product",
    "hada_w1_b": "B of the first product",
    "hada_w2_a": "A of the second product",
    "hada_w2_b": "B of the second product",
    "hada_t1": "core of the first product (r, r, k, l)",
    "hada_t2": "core of the second product (r, r, k, l)",
}


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
