"""GraLoRA: a low-rank product in each of k × k blocks.  https://arxiv.org/abs/2505.20355

Block (j, n) of the update is (A[n][:, part j] · B[j][part n])ᵀ, A (k, in/k, r), B (k, r, out/k)
and r cut into k parts; hybrid_r adds the product of a plain pair. All is scaled by
alpha / (r + hybrid_r). After peft/tuners/gralora/layer.py. Written as one product of rank
k·r + hybrid_r: row block j takes k·r/k components of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unreadable, shown
from adaptertools.methods._parts import Made, features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "GRALORA"

tensors = {
    "gralora_A": "down projections (k, in / k, r)",
    "gralora_B": "up projections (k, r, out / k)",
    "gralora_A_general": "down projection of the whole (hybrid_r, in)",
    "gralora_B_general": "up projection of the whole (out, hybrid_r)",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without alpha, which PEFT has in every one."""
    number(config, "alpha")


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    a, b = part(site, "gralora_A", None, None, None), part(site, "gralora_B", None, None, None)
    k, r = a.shape[0], a.shape[2]
    if (k * a.shape[1], k * b.shape[2], b.shape[:2]) != (inside, out, (k, r)) or r % k:
        raise Mismatch(
            f"{shown(site.entry.target)}: gralora_A is {list(a.shape)}, gralora_B {list(b.shape)}, "
            f"which are no {k} × {k} blocks of a {out}×{inside} weight. "
            "Pass the base that it was trained on as --base."
        )
    general, hybrid = _general(site, out, inside)
    rank = k * r + hybrid
    up = Made((out, rank), _up, (b, *general[1:]))
    down = Made((rank, inside), _down, (a, *general[:1]))
    scale = site.scale * number(site.config, "alpha") / (r + hybrid)
    if site.transposed:
        yield LowRank(down.turned(), up.turned(), scale)
    else:
        yield LowRank(up, down, scale)


def _general(site: Site, out: int, inside: int) -> tuple[tuple[TensorSpec, ...], int]:
    """Give the plain pair that runs beside the blocks, and its rank."""
    wanted, have = site.config.get("hybrid_r") or 0, "gralora_A_general" in site.entry.parts
    if bool(wanted) != have:
        there = "is" if have else "is no"
        raise Unreadable(
            f"{shown(site.entry.target)}: hybrid_r is {shown(wanted)}, and there {there} "
            "gralora_A_general. Config and weights are not of one adapter."
        )
    if not have:
        return (), 0
    a = part(site, "gralora_A_general", None, inside)
    return (a, part(site, "gralora_B_general", out, a.shape[0])), a.shape[0]


def _down(a: Array, general: Array | None = None) -> Array:
    """Give (k·r + hybrid_r, in): row (j, n, s) holds A[n][:, j·r/k + s] in the columns of n."""
    import numpy as np

    k, width, r = a.shape
    down = np.zeros((k, k, r // k, k, width))
    for n in range(k):
        down[:, n, :, n] = a[n].T.reshape(k, r // k, width)
    return _below(down.reshape(k * r, k * width), general)


def _up(b: Array, general: Array | None = None) -> Array:
    """Give (out, k·r + hybrid_r): B[j]ᵀ in the rows and components of j."""
    import numpy as np

    k, r, height = b.shape
    up = np.zeros((k, r, k, height))
    for j in range(k):
        up[j, :, j] = b[j]
    return _below(up.reshape(k * r, k * height), None if general is None else general.T).T


def _below(matrix: Array, general: Array | None) -> Array:
    import numpy as np

    return matrix if general is None else np.concatenate([matrix, general])
