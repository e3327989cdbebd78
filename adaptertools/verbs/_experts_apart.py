"""Fused experts (`target_parameters`) as one product for each expert, for stacks and comparisons.

With a base each tensor's parameter is known. Without one it is not, but the tensors are then told
apart as the file does, which is enough where all adapters have the same ones in the same layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from adaptertools.adapter import Adapter, Entry, Fused, Site
from adaptertools.errors import Unsupported, shown
from adaptertools.formats._experts_names import Sizes, expert_names
from adaptertools.formats._experts_read import Known, check_known
from adaptertools.methods import _experts
from adaptertools.report import Finding
from adaptertools.update import Update
from adaptertools.update.experts import Experts
from adaptertools.update.lowrank import LowRank
from adaptertools.verbs._experts import Shapes as Parameters
from adaptertools.verbs._experts import resolve
from adaptertools.verbs._sources_base import Shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """Which part of a parameter a product is for."""

    module: str  # "model.layers.0.mlp.experts"
    parameter: str = ""  # "gate_up_proj"; empty where no base said which one it is
    number: int = 0
    count: int = 1  # how many the parameter has
    depth: int = 0  # how many `base_layer` its file has before the role
    turned: bool = False  # PEFT since 0.19.1 stores the transposed product
    order: tuple[str, ...] = ()  # the module's parameters; those that it may be, without a base

    @property
    def group(self) -> str:
        """What it is a part of: a parameter's full name, or where its file has it."""
        return f"{self.module}{self.level}"

    @property
    def level(self) -> str:
        """The end of that name."""
        return f".{self.parameter}" if self.parameter else ".base_layer" * self.depth

    @property
    def name(self) -> str:
        """Name it as a module of its own: `model.layers.0.mlp.experts.3.gate_up_proj`."""
        if not self.parameter:
            return f"{self.group}.{self.number}"
        return self.group if self.count == 1 else f"{self.module}.{self.number}{self.level}"

    @property
    def ranked(self) -> str:
        """What has one rank: a parameter, or all that one of those may be."""
        return self.group if self.parameter else self.module


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """An adapter's entries: products of single experts, and all the others as they are."""

    rest: tuple[Entry, ...]
    entries: Mapping[str, Entry] = field(default_factory=dict)  # by the expert's name
    lows: Mapping[str, LowRank] = field(default_factory=dict)
    experts: Mapping[str, Expert] = field(default_factory=dict)
    doubts: tuple[Finding, ...] = ()


Unit = tuple[Entry, Expert, LowRank]


def apart(adapter: Adapter, base: Shapes, packing: str | None) -> Apart:
    """Take fused experts apart with what their base says.

    Raises what `resolve` raises.
    """
    known = _known(adapter, base)
    whole, doubts = resolve(adapter, lambda: known, packing)
    rest = tuple(entry for entry in whole.entries if entry.fused is None)
    units = (
        unit
        for entry in whole.entries
        if entry.fused is not None and known is not None
        for unit in _units(whole, entry, entry.fused, known)
    )
    return gathered(rest, units, doubts)


def gathered(rest: Iterable[Entry], units: Iterable[Unit], doubts: Iterable[Finding]) -> Apart:
    """Sort what was found by names."""
    every = [*units]
    return Apart(
        rest=tuple(rest), doubts=tuple(doubts),
        entries={expert.name: replace(entry, target=expert.name) for entry, expert, _ in every},
        lows={expert.name: low for _, expert, low in every},
        experts={expert.name: expert for _, expert, _ in every},
    )  # fmt: skip


def products(update: Update) -> Iterator[LowRank]:
    """Give what each expert gets."""
    if isinstance(update, Experts):
        yield from map(update.expert, range(update.experts))
    elif isinstance(update, LowRank):
        yield update


def sizes_of(base: Shapes) -> Sizes | None:
    """Give the names of single experts, where the base's family is known to have some."""
    found = expert_names(base.base.config)
    return found if found and found.experts and found.names.splits else None


def _known(adapter: Adapter, base: Shapes) -> Parameters | None:
    """Ask transformers, or, where it is missing or knows less, our own table of families."""
    try:
        found: Parameters | None = base.names.layout()
    except Unsupported:
        if not (sizes := expert_names(base.base.config)) or not sizes.experts:
            raise
        check_known(adapter, sizes)
        return Known(adapter, sizes)
    return found


def _units(adapter: Adapter, entry: Entry, fused: Fused, known: Parameters) -> Iterator[Unit]:
    some = next(iter(entry.parts.values()))
    site = Site(
        entry=entry, config=adapter.config, weight=some._replace(shape=fused.shape), bias=None,
        transposed=False, attention=False,
    )  # fmt: skip
    count = _experts.experts_of(fused.shape)
    for number, low in enumerate(products(_experts.update(site, fused))):
        yield (
            entry,
            Expert(
                module=entry.target, parameter=fused.parameter.rpartition(".")[2], number=number,
                count=count, depth=entry.depth, order=known.parameters(entry.target),
                turned=count > 1 and known.is_transposed(entry.target),
            ),
            low,
        )  # fmt: skip


def needs_base(adapter: Adapter, why: str) -> Unsupported:
    """Say that only the base tells whose the tensors are."""
    return Unsupported(
        f"{shown(adapter.ref)} adapts fused experts (target_parameters), and {why}. Pass the model "
        "as --base; only its config and headers are read."
    )
