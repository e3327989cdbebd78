"""The one product that a module's tensors stand for, and the axes of its weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from adaptertools.adapter import Adapter, Entry, Site
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.methods import Method
from adaptertools.update.lowrank import LowRank
from adaptertools.verbs._sources_base import Shapes
from adaptertools.verbs._sources_forms import axes, factored


class Dependent(Unsupported):
    """An update that the tensors alone do not say."""


def dependent(adapter: Adapter, why: str) -> Dependent:
    """Say that an update is not fixed before a base is there."""
    return Dependent(
        f"{shown(adapter.ref)}: {why}, so its update is no sum that could be made without the "
        "base. `adaptertools merge` can put it into the base, `adaptertools convert --to plain "
        "--base BASE --allow-lossy` makes a LoRA near it."
    )


def whole_of(adapter: Adapter, entry: Entry, base: Shapes | None) -> tuple[int, ...]:
    """Give the axes of a module's weight, from the tensors or from the base."""
    own = axes(entry, adapter)
    there = base.of(entry.target) if base else None
    blocks = adapter.config.get("use_bdlora")
    if base and (there is None or not (0 in own or blocks or prod(own) == prod(there))):
        wanted = base.needed(entry.target)
        raise Mismatch(
            f"{shown(entry.target)}: the update of {shown(adapter.ref)} is {list(own)}, the base "
            f"has {list(wanted)}. Pass the base that it was trained on as --base."
        )
    return there or own


def low_of(
    adapter: Adapter, method: Method, entry: Entry, whole: tuple[int, ...],
    peers: Mapping[str, tuple[int, int]],
) -> LowRank:  # fmt: skip
    """Ask the method for the one product that an entry stands for."""
    if odd := sorted(entry.parts.keys() - method.tensors.keys()):
        names = first(entry.parts[role].name for role in odd)
        raise Unsupported(
            f"{names}: {method.peft_type} has no tensor of that name up to PEFT 0.21, and leaving "
            "it out could change the result. Remove it if it says nothing."
        )
    some = next(iter(entry.parts.values()))
    out = whole[:1]
    # No base is there: the site is what the factors themselves say that the weight is. How often
    # PEFT counts a MultiheadAttention's out_proj is the same for the parts and for their sum.
    site = Site(
        entry=entry, config=adapter.config, weight=some._replace(shape=whole), transposed=False,
        bias=some._replace(shape=out), attention=entry.nested, mha_out_proj="once",
        shared=adapter.shared, peers=peers,
    )  # fmt: skip
    updates = list(method.updates(site))
    low = factored(updates[0]) if len(updates) == 1 else None
    if low is None:
        kinds = first(str(update.describe()["kind"]) for update in updates)
        raise dependent(adapter, f"the update of {shown(entry.target)} is {kinds}")
    bias = entry.parts.get("lora_B.bias")
    if bias is not None and bias.shape != out:
        raise Mismatch(
            f"{shown(bias.name)} is {list(bias.shape)}, and the module has {whole[0]} outputs. "
            "Save the adapter again."
        )
    return low
