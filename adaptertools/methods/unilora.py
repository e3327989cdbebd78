"""Uni-LoRA: every entry of every A and B is one of few numbers.  https://arxiv.org/abs/2506.00799

W + B·A with A = θ[indices_A] · scales_A and B likewise, θ (d) one vector for the whole model:
`base_model.unilora_theta_d`. Without `save_indices` the file holds only θ: the indices of all
modules, in the model's order, A before B, are as many of each as can be, shuffled by numpy's
generator of `proj_seed`, and an entry's scale is 1 / √(how often its number is used). After
peft/tuners/unilora/{model,layer}.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.errors import Unreadable, shown
from adaptertools.methods._dealt import Dealt, Picked
from adaptertools.methods._parts import features, number, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Matrix, Update
from adaptertools.update.lowrank import LowRank
from adaptertools.update.matrices import oriented

peft_type = "UNILORA"

tensors = {
    "unilora_theta_d": "the numbers of the whole model (d)",
    "unilora_indices_A": "which of them A has (r, in)",
    "unilora_indices_B": "which of them B has (out, r)",
    "unilora_scales_A": "what A's are multiplied by (r, in)",
    "unilora_scales_B": "what B's are multiplied by (out, r)",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a config without what deals the indices, where they were not saved."""
    if not config.get("save_indices"):
        number(config, "r", whole=True)
        if number(config, "proj_seed", whole=True) < 0:
            raise Unreadable("proj_seed is negative in adapter_config.json, which is no seed.")


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    theta = site.shared.get("unilora_theta_d")
    if theta is None or theta.dtype not in FLOATS or len(theta.shape) != 1:
        raise Unreadable(
            "The adapter lacks base_model.unilora_theta_d, a vector that all its modules share. "
            "The file is incomplete; save the adapter again."
        )
    saved = "unilora_indices_A" in site.entry.parts
    if site.config.get("save_indices") and not saved:
        raise Unreadable(
            f"{shown(site.entry.target)} has no unilora_indices_A, and the config says that they "
            "were saved (save_indices). The file is incomplete; save the adapter again."
        )
    up, down = (_picked if saved else _drawn)(site, theta, out, inside)
    yield LowRank(*oriented(up, down, site.transposed), site.scale)


def _picked(site: Site, theta: TensorSpec, out: int, inside: int) -> tuple[Matrix, Matrix]:
    """Give B and A by the saved indices."""
    kinds = ("I32", "I64")
    r = part(site, "unilora_indices_A", None, inside, kinds=kinds).shape[0]
    b, a = (
        Picked(
            theta,
            part(site, f"unilora_indices_{x}", *shape, kinds=kinds),
            part(site, f"unilora_scales_{x}", *shape),
            shape,
        )
        for x, shape in (("B", (out, r)), ("A", (r, inside)))
    )
    return b, a


def _drawn(site: Site, theta: TensorSpec, out: int, inside: int) -> tuple[Matrix, Matrix]:
    """Give B and A by indices dealt over all modules that the adapter changes."""
    r, seed = (int(number(site.config, key, whole=True)) for key in ("r", "proj_seed"))
    sizes = {name: r * sum(shape) for name, shape in site.peers.items()}
    names, total = [*sizes], sum(sizes.values())
    before = sum(sizes[name] for name in names[: names.index(site.entry.target)])
    down = Dealt(theta, seed, total, before, (r, inside))
    return Dealt(theta, seed, total, before + r * inside, (out, r)), down
