"""DeLoRA: a product whose components have a set length.  https://arxiv.org/abs/2503.18225

W + B · diag(λ / (r |A_i| |B_i|)) · A · diag(w), with A_i a row of A (r, in), B_i a column of B
(out, r), λ (1) and w (in) the norms of the columns of the weight that was trained on. Lengths
below 1e-4 count as 1e-4. After peft/tuners/delora/layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adaptertools.adapter import Site
from adaptertools.methods._parts import Made, features, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._plain import check as check
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "DELORA"

tensors = {
    "delora_A": "down projection (r, in)",
    "delora_B": "up projection (out, r)",
    "delora_lambda": "length of the update (1)",
    "delora_w_norm": "norms of the base's columns (in)",
}

_SHORTEST = 1e-4


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site, conv1d=False)
    a = part(site, "delora_A", None, inside)
    r = a.shape[0]
    b = part(site, "delora_B", out, r)
    length, norms = part(site, "delora_lambda", 1), part(site, "delora_w_norm", inside)
    up, down = Made((out, r), _up, (b, length)), Made((r, inside), _down, (a, norms))
    yield LowRank(up, down, site.scale / r)


def _up(b: Array, length: Array) -> Array:
    import numpy as np

    scaled: Array = b * (length / np.linalg.norm(b, axis=0).clip(min=_SHORTEST))
    return scaled


def _down(a: Array, norms: Array) -> Array:
    import numpy as np

    scaled: Array = a / np.linalg.norm(a, axis=1, keepdims=True).clip(min=_SHORTEST) * norms
    return scaled
