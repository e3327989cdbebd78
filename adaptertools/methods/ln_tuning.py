"""LN tuning: a trained copy of a whole layer, usually a norm.  https://arxiv.org/abs/2312.11420

W' is the copy's weight and b' its bias; peft/tuners/ln_tuning/layer.py swaps the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._parts import part
from adaptertools.update import Update
from adaptertools.update.rows import Toward

peft_type = "LN_TUNING"

tensors = {
    "ln_tuning_layers": "the trained weight",
    "ln_tuning_layers.bias": "the trained bias",
}


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: the tensors say all."""


def updates(site: Site) -> Iterable[Update]:
    """Let the trained weight take the place of the base's."""
    return [Toward(Factor(part(site, "ln_tuning_layers")), site.scale)]


def bias_updates(site: Site) -> Iterable[Update]:
    """Let the trained bias take the place of the base's."""
    if "ln_tuning_layers.bias" not in site.entry.parts:
        return []
    if site.bias is None:
        raise Mismatch(
            f"{shown(site.entry.target)} has a trained bias, and the base has no bias there. "
            "Pass the base that it was trained on as --base."
        )
    return [Toward(Factor(part(site, "ln_tuning_layers.bias")), site.scale)]
