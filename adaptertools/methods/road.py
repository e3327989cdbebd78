"""RoAd: outputs turned in pairs, W' = R·W and b' = R·b.  https://arxiv.org/abs/2409.00119

After peft/tuners/road/layer.py: in every group of group_size outputs, i in the first half is paired
with j in the second. y'ᵢ = cᵢ·yᵢ − sᵢ·yⱼ and y'ⱼ = cⱼ·yⱼ + sⱼ·yᵢ, c = α·cos θ, s = α·sin θ.
road_1 stores one θ and α per pair, road_2 one per output, road_4 two per output: for c, then for s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.methods._parts import Made, features, number, part
from adaptertools.methods._rotations import pairs
from adaptertools.update import Update
from adaptertools.update.paired import Paired

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
    yield Paired(Made((outputs, 2), pairs, parts, (variant, group)), group, site.scale)


def bias_updates(site: Site) -> Iterator[Update]:
    """Give the update of the bias, which is turned as well."""
    if site.bias is not None:
        yield from updates(site)
