"""What an adapter adds to each module, as exact factors that need no base.

Only updates that are W + ΔW with ΔW independent of W have such factors; the method's own file says
which these are, and all others are refused by name. Matrices are in the orientation of nn.Linear:
(out, in), a convolution's further axes flattened into the columns, an embedding's (tokens, dim).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from adaptertools import plugins, tensorfile
from adaptertools.adapter import Adapter, Entry, Saved, TokenRows
from adaptertools.blends._emulate import Raw
from adaptertools.errors import Mismatch, UnknownMethod, Unreadable, Unsupported, first, shown
from adaptertools.methods import Method
from adaptertools.methods._refused import REFUSED, refusal
from adaptertools.report import Finding
from adaptertools.tensorfile import FLOATS
from adaptertools.update.factors import Factors
from adaptertools.update.lowrank import LowRank
from adaptertools.verbs._experts_apart import Apart, Expert, apart, sizes_of
from adaptertools.verbs._experts_single import join, single
from adaptertools.verbs._experts_unnamed import unnamed
from adaptertools.verbs._sources_base import Shapes
from adaptertools.verbs._sources_forms import FACTORED, WIDTHLESS
from adaptertools.verbs._sources_low import dependent, low_of, whole_of

if TYPE_CHECKING:
    from adaptertools.update import Array

# Config keys whose updates look at the weights, and what each does with them.
_WEIGHTS = {
    "use_dora": "DoRA divides by the norms of the base's weights",
    "kasa_config": "KaSA takes singular components away from the base's weights",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An adapter that can be added to others: all that it stores is in one of these."""

    adapter: Adapter
    entries: Mapping[str, Entry]  # by target
    lows: Mapping[str, LowRank]
    saved: tuple[Saved, ...]
    rows: tuple[TokenRows, ...]
    wholes: Mapping[str, tuple[int, ...]]  # the axes of each module's weight
    # What is no module of its own but an expert of a parameter; an entry and a low there, too.
    experts: Mapping[str, Expert] = field(default_factory=dict)
    doubts: tuple[Finding, ...] = ()  # what could not be told for sure

    @property
    def rank(self) -> int:
        """The largest rank of a module; of methods that have none, the inner dimension."""
        return max((low.rank for low in self.lows.values()), default=0)

    def shape(self, target: str) -> tuple[int, int]:
        """Give the shape of a module's update, as a matrix."""
        return self.lows[target].shape

    def axes(self, target: str) -> tuple[int, ...]:
        """Give the axes of a module's weight: (out, in), (out, in, *kernel), (tokens, dim)."""
        shape = self.wholes[target]
        return shape if len(shape) > 2 else self.shape(target)  # blocks widen BD-LoRA's

    def nbytes(self, target: str) -> int:
        """Give how much is read of a module, of all experts' factors its share."""
        entry, expert = self.entries[target], self.experts.get(target)
        return sum(s.nbytes for s in entry.parts.values()) // (expert.count if expert else 1)

    def load(self, entry: Entry) -> Factors:
        """Read the factors of a module in float64, its scale folded into `up`."""
        product = self.lows[entry.target].product("float64")
        return Factors(product.up, product.down)

    def raw(self, entry: Entry) -> Raw:
        """Read B and A as they are stored, in float64, with the scale beside them."""
        low, config = self.lows[entry.target], self.adapter.config
        made = Factors(low.up.read("float64"), low.down.read("float64"))
        made = made.turned() if "lora_embedding_A" in entry.parts else made
        return Raw(made, low.scale, bool(config.get("use_rslora")))

    def bias(self, entry: Entry) -> Array | None:
        """Read what is added to the bias (`lora_bias`), scaled, in float64; None for nothing."""
        spec = entry.parts.get("lora_B.bias")
        if spec is None:
            return None
        scaled: Array = tensorfile.read(spec).astype("float64") * entry.scale
        return scaled


def source(
    adapter: Adapter, base: Shapes | None = None, packing: str | None = None, fused: bool = False
) -> Source:
    """Take an adapter apart into factors, from its config and header.

    `base` is for methods that do not say how wide a weight is and for fused experts, and checks all
    others. `packing` is as of `resolve`. With `fused`, and a base whose family is known, LoRAs of
    single experts become those of the fused weights, too.
    Raises UnknownMethod or Unsupported where its updates are no fixed low-rank sums, Mismatch or
    Unreadable where its tensors do not fit one another or are left over.
    """
    method = _method(adapter, base)
    for key, why in _WEIGHTS.items():
        if adapter.config.get(key):
            raise dependent(adapter, f"{why} ({key})")
    method.check(adapter.config)
    found = _apart(adapter, base, packing)
    sizes = sizes_of(base) if fused and base and adapter.method == "LORA" else None
    plain = {entry.target: entry for entry in found.rest}
    if len(plain) < len(found.rest):
        raise _twice(adapter)
    alone = {t: entry for t, entry in plain.items() if sizes and single(t, sizes)}
    wholes = {t: whole_of(adapter, e, None if t in alone else base) for t, e in plain.items()}
    peers = base.peers(adapter) if base and adapter.method in WIDTHLESS else {}
    lows = {t: low_of(adapter, method, e, wholes[t], peers) for t, e in plain.items()}
    parts = [found, *([join(alone, lows, sizes)] if alone and sizes else [])]
    for target in alone:
        del plain[target], lows[target]
    for part in parts:
        plain.update(part.entries)
        lows.update(part.lows)
    experts = {t: expert for part in parts for t, expert in part.experts.items()}
    made = Source(
        wholes=wholes | {t: lows[t].shape for t in experts}, adapter=adapter, entries=plain,
        lows=lows, saved=adapter.saved, rows=adapter.rows, experts=experts, doubts=found.doubts,
    )  # fmt: skip
    _account(made)
    return made


def _apart(adapter: Adapter, base: Shapes | None, packing: str | None) -> Apart:
    """Tell fused experts from modules."""
    if adapter.method != "LORA" or not adapter.config.get("target_parameters"):
        return Apart(rest=adapter.entries)
    return apart(adapter, base, packing) if base else unnamed(adapter, packing)


def untouched(adapter: Adapter) -> Source:
    """Take an adapter of any method as it is stored; raise Mismatch where a tensor is left over."""
    made = Source(
        adapter=adapter, entries={entry.target: entry for entry in adapter.entries}, lows={},
        saved=adapter.saved, rows=adapter.rows, wholes={},
    )  # fmt: skip
    _account(made)
    if len(made.entries) < len(adapter.entries):
        raise _twice(adapter)
    return made


def check_finite(made: Source) -> None:
    """Refuse NaN and infinity in anything that would be used; reads every tensor once."""
    adapter = made.adapter
    used = [spec for name, spec in adapter.tensors.items() if name not in adapter.ignored]
    bad = [s.name for s in used if s.dtype in FLOATS and not tensorfile.finite(s)]
    if bad:
        raise Unreadable(
            f"{shown(adapter.ref)}: {len(bad)} tensors hold NaN or infinity: {first(bad)}. "
            "The training diverged. Use an earlier checkpoint."
        )


def _method(adapter: Adapter, base: Shapes | None) -> Method:
    if adapter.method in WIDTHLESS and base is None:
        raise Unsupported(
            f"{shown(adapter.ref)} is of type {adapter.method}, whose tensors do not say how wide "
            "the weights are. Pass the model as --base; only its headers are read."
        )
    if adapter.method in REFUSED:
        raise refusal(adapter.method, adapter.ref, "written as factors")
    if adapter.method not in (*FACTORED, *WIDTHLESS):
        raise UnknownMethod(
            f"{shown(adapter.ref)} is of type {shown(adapter.method)}, whose updates are not read "
            f"as factors yet. Known: {', '.join((*FACTORED, *WIDTHLESS))}. Make a LoRA of "
            "it first (`adaptertools convert --to plain`), or merge it."
        )
    return cast(Method, plugins.load("methods", adapter.method.lower()))


def _account(made: Source) -> None:
    """Hold what was understood against what is stored: nothing may be left over."""
    adapter = made.adapter
    used = {spec.name for entry in adapter.entries for spec in entry.parts.values()}
    used |= {spec.name for spec in adapter.shared.values()}
    used |= {item.spec.name for item in adapter.saved} | {rows.spec.name for rows in adapter.rows}
    if over := sorted(adapter.tensors.keys() - used - adapter.ignored.keys()):
        raise Mismatch(
            f"{len(over)} tensors of {shown(adapter.ref)} would have no effect: {first(over)}. "
            "This is either a damaged adapter or a fault of adaptertools."
        )


def _twice(adapter: Adapter) -> Unreadable:
    return Unreadable(f"{shown(adapter.ref)} adapts one module twice. Save it again.")
