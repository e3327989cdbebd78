"""(IA)³: outputs, or the inputs of a feed-forward layer, times learnt numbers l.  arXiv:2205.05638

Feed-forward: W' = W · diag(l), the bias as it was; else W' = diag(l) · W and b' = l ∘ b. Shapes on
disk, after peft/tuners/ia3/layer.py: (1, in) and (out, 1); of a convolution (1, n, 1, …) for both,
where feedforward_modules in the config tells which.
"""

from __future__ import annotations

from collections.abc import Iterator

from adaptertools.adapter import Site
from adaptertools.methods._feedforward import feeds
from adaptertools.methods._parts import part
from adaptertools.methods._plain import check as check
from adaptertools.methods._table import table
from adaptertools.update import Update
from adaptertools.update.scaled import Scaled

peft_type = "IA3"

tensors = {"ia3_l": "factors of the outputs (out, 1), or of the inputs (1, in)"}


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight: its rows or its columns times the factors."""
    spec, (outputs, inputs) = part(site, "ia3_l"), site.shape
    if not feeds(site):
        shape = (1, outputs) if site.transposed else (outputs, 1)
    elif len(spec.shape) > 2:
        shape = (spec.shape[1] // site.weight.shape[1], inputs)  # a row for each group
    else:
        shape = (inputs, 1) if site.transposed else (1, inputs)
    yield Scaled(table(spec, *shape), site.scale)


def bias_updates(site: Site) -> Iterator[Update]:
    """Give the update of the bias, which is part of the outputs."""
    if site.bias is not None and not feeds(site):
        yield Scaled(table(part(site, "ia3_l"), site.shape[0], 1), site.scale)
