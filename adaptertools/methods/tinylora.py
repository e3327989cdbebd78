"""TinyLoRA: W + B · (Σ vᵢ Pᵢ) · A, with v shared by groups.  https://arxiv.org/abs/2602.04118

A (r, in) and B (out, r) are factors of the base, P (u, r, r) random: all of them in the file, P
perhaps as `projection_seed` only. v (u) is `base_model.tinylora_v.<group>`; groups are runs of the
adapted modules in the model's order, as `weight_tying` says. Embeddings have A (r, dim), B
(vocab, r). After peft/tuners/tinylora/{model,layer}.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, Unreadable, shown
from adaptertools.methods._parts import Made, features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.methods._seeded import normal
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.matrices import oriented

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "TINYLORA"

tensors = {
    "tinylora_A": "right factor of the base (r, in)",
    "tinylora_B": "left factor of the base (out, r)",
    "tinylora_P": "random matrices (u, r, r)",
    "tinylora_v.*": "what is trained, one vector for each group of modules (u)",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config that does not say how modules are grouped."""
    number(config, "weight_tying")


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    a = part(site, "tinylora_A", None, inside)
    r = a.shape[0]
    b, v = part(site, "tinylora_B", out, r), _group(site)
    if "tinylora_P" in site.entry.parts:
        p = part(site, "tinylora_P", v.shape[0], r, r)
        up = Made((out, r), _up, (b, v, p))
    else:
        up = Made((out, r), _up_drawn, (b, v), (_seed(site),))
    yield LowRank(*oriented(up, Factor(a), site.transposed), site.scale)


def _group(site: Site) -> TensorSpec:
    """Give the vector of the group that the module belongs to."""
    count = len(site.peers)
    groups = max(1, round(count * (1.0 - number(site.config, "weight_tying"))))
    size = max(1, count // groups)
    at = 0 if groups == 1 else min(site.index // size, groups - 1)
    spec = site.shared.get(f"tinylora_v.{at}")
    if spec is None:
        raise Unreadable(
            f"The adapter lacks base_model.tinylora_v.{at}, which {shown(site.entry.target)} is "
            "to be made with. The file is incomplete; save the adapter again."
        )
    if spec.dtype not in FLOATS or len(spec.shape) != 1:
        raise Mismatch(f"{shown(spec.name)} is {spec.dtype} {list(spec.shape)}, no row of floats.")
    return spec


def _seed(site: Site) -> int:
    """Give the seed of P, which was left out on purpose."""
    if site.config.get("save_projection", True):
        raise Unreadable(
            f"{shown(site.entry.target)} has no tinylora_P, and the config does not set "
            "save_projection to false. The file is incomplete; save the adapter again."
        )
    return int(number(site.config, "projection_seed", whole=True)) + site.index


def _up(b: Array, v: Array, p: Array) -> Array:
    import numpy as np

    made: Array = b @ np.einsum("i,ijk->jk", v, p)
    return made


def _up_drawn(b: Array, v: Array, seed: int) -> Array:
    r = b.shape[1]
    return _up(b, v, normal(seed, len(v) * r * r, r**-0.5).reshape(len(v), r, r))
