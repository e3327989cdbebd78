"""RoAd: outputs turned in pairs, W' = R·W and b' = R·b.  https://arxiv.org/abs/2409.00119

After peft/tuners/road/layer.py: in every group of group_size outputs, i in the first half is paired
with j in the second. y'ᵢ = cᵢ·yᵢ − sᵢ·yⱼ and y'ⱼ = cⱼ·yⱼ + sⱼ·yᵢ, c = α·cos θ, s = α·sin θ.
road_1 stores one θ and α per pair, road_2 one per output, road_4 two per output: for c, then for s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.methods._parts import Made, features, number, part
from adaptertools.update import Update
from adaptertools.update.paired import Paired

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "ROAD"

tensors = {"road_theta": "angles", "road_alpha": "lengths"}

_EACH = {"road_1": 0.5, "road_2": 1, "road_4": 2}  # numbers for an output


def check(config: Mapping[str, Any]) -> None:
    """Refuse variants that no PEFT release knows, and groups that are no pairs."""
    if config.get("variant", "road_1") not in _EACH:
        raise Unsupported(
            f"variant is {shown(config['variant'])}; PEFT's RoAd has {', '.join(_EACH)}."
        )
    size = number({"group_size": 64, **config}, "group_size", whole=True)
    if size < 2 or size % 2:
        raise Unsupported(f"group_size is {shown(size)}; pairs need an even number.")


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    outputs, group = features(site, conv1d=False)[0], site.config.get("group_size", 64)
    if outputs % group:
        raise Mismatch(
            f"{shown(site.entry.target)} has {outputs} outputs, which are no groups of {group}. "
            "Pass the base that it was trained on as --base."
        )
    variant = site.config.get("variant", "road_1")
    count = int(outputs * _EACH[variant])
    parts = (part(site, "road_theta", count), part(site, "road_alpha", count))
    yield Paired(Made((outputs, 2), _pairs, parts, (variant, group)), group, site.scale)


def bias_updates(site: Site) -> Iterator[Update]:
    """Give the update of the bias, which is turned as well."""
    if site.bias is not None:
        yield from updates(site)


def _pairs(theta: Array, alpha: Array, variant: str, group: int) -> Array:
    """Give (outputs, 2): what the output itself counts, and its partner."""
    import numpy as np

    if variant == "road_1":
        theta, alpha = (
            np.repeat(v.reshape(-1, 1, group // 2), 2, axis=1).reshape(-1) for v in (theta, alpha)
        )
    if variant == "road_4":
        theta, alpha = (v.reshape(-1, 2, group) for v in (theta, alpha))
        own = (alpha[:, 0] * np.cos(theta[:, 0])).reshape(-1)
        other = (alpha[:, 1] * np.sin(theta[:, 1])).reshape(-1)
    else:
        own, other = alpha * np.cos(theta), alpha * np.sin(theta)
    other = other.reshape(-1, 2, group // 2) * np.array([-1.0, 1.0])[:, None]
    return np.stack([own, other.reshape(-1)], axis=1)
