"""BEFT: b + Δb, the bias alone.  https://arxiv.org/abs/2509.15974

After peft/tuners/beft/layer.py. A layer without a bias has nothing to add it to: refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, shown
from adaptertools.methods._parts import part
from adaptertools.update import Update
from adaptertools.update.shift import Shift

peft_type = "BEFT"

tensors = {"beft_bias": "what is added to the bias (1, out)"}


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: the tensors say all."""


def updates(site: Site) -> Iterable[Update]:
    """Leave the weight as it is; refuse a layer without a bias."""
    if site.bias is None:
        raise Mismatch(
            f"{shown(site.entry.target)} has a beft_bias, and the base has no bias there to add it "
            "to. PEFT cannot merge it either. Serve it as an adapter."
        )
    return []


def bias_updates(site: Site) -> Iterable[Update]:
    """Give the update of the bias."""
    spec = part(site, "beft_bias", 1, site.shape[0])
    return [Shift(Factor(spec, transposed=True), site.scale)]
