"""Fused experts without a base: told apart as their file does, not by parameter.

The file has one pair of factors for each parameter of a module and does not say which is whose;
what rank and how many experts there are, the config and the shapes say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from adaptertools.adapter import Adapter, Entry, Factor
from adaptertools.errors import Mismatch, Unreadable, shown
from adaptertools.formats._peft_scale import scaled
from adaptertools.methods._experts import factors
from adaptertools.report import Finding
from adaptertools.update.experts import Experts
from adaptertools.verbs._experts_apart import Apart, Expert, Unit, gathered, needs_base, products
from adaptertools.verbs._experts_doubts import rank_major


def unnamed(adapter: Adapter, packing: str | None) -> Apart:
    """Take fused experts apart from config and file alone.

    Raises Unsupported where only the base tells what is meant, Unreadable or Mismatch where config
    and tensors do not fit.
    """
    modules: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in adapter.entries:
        modules[entry.target].append(entry)
    meant = {target: () if entries[0].nested else _meant(adapter, target)
             for target, entries in modules.items()}  # fmt: skip
    doubts: list[Finding] = []
    units = [*_units(adapter, modules, meant, packing, doubts)]
    rest = [entry for entry in adapter.entries if not meant[entry.target]]
    return gathered(rest, units, [d for at, d in enumerate(doubts) if d not in doubts[:at]])


def _meant(adapter: Adapter, target: str) -> tuple[str, ...]:
    """Give the parameters of a module that target_parameters names; none for other modules."""
    listed = adapter.config["target_parameters"]
    if not isinstance(listed, list) or not all(isinstance(n, str) and n for n in listed):
        raise Unreadable(f"target_parameters is {shown(listed)}; names were expected.")
    apart = [name.rpartition(".") for name in listed]
    if bare := [last for parent, _, last in apart if not parent]:
        raise needs_base(adapter, f"{shown(bare[0])} could be of any module")
    found = {last for parent, _, last in apart if f".{target}".endswith(f".{parent}")}
    return tuple(sorted(found))


def _units(
    adapter: Adapter, modules: Mapping[str, list[Entry]], meant: Mapping[str, tuple[str, ...]],
    packing: str | None, doubts: list[Finding],
) -> Iterator[Unit]:  # fmt: skip
    for target, entries in modules.items():
        names = meant[target]
        if names and sorted(entry.depth for entry in entries) != [*range(len(names))]:
            why = f"of {shown(target)} it stores {len(entries)} and names {len(names)} parameters"
            raise needs_base(adapter, why)
        for entry in entries:
            if names:
                yield from _of(adapter, entry, names, packing, doubts)


def _of(
    adapter: Adapter, entry: Entry, names: tuple[str, ...], packing: str | None,
    doubts: list[Finding],
) -> Iterator[Unit]:  # fmt: skip
    every = [f"{entry.target}.{name}" for name in names]
    sizes = {scaled(adapter.config, name) for name in every}
    if len(sizes) > 1:
        raise needs_base(
            adapter, f"the parameters of {shown(entry.target)} differ in rank or alpha"
        )
    rank, scale = sizes.pop()
    down, up = factors(entry)
    count, left = divmod(down.rows, rank)
    if left or up.columns != down.rows:
        raise Mismatch(
            f"{shown(entry.target)}: lora_A is {list(down.shape)} and lora_B {list(up.shape)}, "
            f"which are no experts of rank {rank}. Correct r or rank_pattern in "
            "adapter_config.json."
        )
    ways = {True}
    if rank > 1 and count > 1:  # else both packings are the same
        ways = {rank_major(adapter, name, packing, doubts) for name in every}
    if len(ways) > 1:
        raise needs_base(adapter, f"the parameters of {shown(entry.target)} are packed in two ways")
    update = Experts(
        Factor(up), Factor(down), count, rank, scale, rank_major=ways.pop(), turned=False
    )
    for number, low in enumerate(products(update)):
        expert = Expert(
            module=entry.target, number=number, count=count, depth=entry.depth, order=names
        )
        yield replace(entry, rank=rank, scale=scale), expert, low
