"""What an adapter adds to each module, as exact factors that need no base.

Only updates that are W + ΔW with ΔW independent of W have such factors; the method's own file says
which these are, and all others are refused by name. Matrices are in the orientation of nn.Linear:
(out, in), a convolution's further axes flattened into the columns, an embedding's (tokens, dim).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, cast

from adaptertools import plugins, tensorfile
from adaptertools.adapter import Adapter, Entry, Saved, Site, TokenRows
from adaptertools.blends._emulate import Raw
from adaptertools.errors import Mismatch, UnknownMethod, Unreadable, Unsupported, first, shown
from adaptertools.methods import Method
from adaptertools.tensorfile import FLOATS
from adaptertools.update.factors import Factors
from adaptertools.update.lowrank import LowRank
from adaptertools.verbs._sources_base import Shapes
from adaptertools.verbs._sources_forms import FACTORED, WIDTHLESS, axes, factored

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


def source(adapter: Adapter, base: Shapes | None = None) -> Source:
    """Take an adapter apart into factors, from its config and header.

    `base` is for methods that do not say how wide a weight is, and checks all others.
    Raises UnknownMethod or Unsupported where its updates are no fixed low-rank sums, Mismatch or
    Unreadable where its tensors do not fit one another or are left over.
    """
    method = _method(adapter, base)
    for key, why in _WEIGHTS.items():
        if adapter.config.get(key):
            raise _dependent(adapter, f"{why} ({key})")
    if adapter.config.get("target_parameters"):
        raise Unsupported(
            f"{shown(adapter.ref)} has updates of fused expert parameters (target_parameters), "
            "which are not read as factors yet. Merge it."
        )
    method.check(adapter.config)
    wholes = {entry.target: _whole(adapter, entry, base) for entry in adapter.entries}
    peers = base.peers(adapter) if base and adapter.method in WIDTHLESS else {}
    lows = {
        entry.target: _low(adapter, method, entry, wholes[entry.target], peers)
        for entry in adapter.entries
    }
    made = Source(
        wholes=wholes,
        adapter=adapter, entries={entry.target: entry for entry in adapter.entries}, lows=lows,
        saved=adapter.saved, rows=adapter.rows,
    )  # fmt: skip
    _account(made)
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
    if adapter.method not in (*FACTORED, *WIDTHLESS):
        raise UnknownMethod(
            f"{shown(adapter.ref)} is of type {shown(adapter.method)}, whose updates are not read "
            f"as factors yet. Known: {', '.join((*FACTORED, *WIDTHLESS))}. Convert it to "
            "LoRA with PEFT's convert_to_lora first, or merge it."
        )
    return cast(Method, plugins.load("methods", adapter.method.lower()))


def _dependent(adapter: Adapter, why: str) -> Unsupported:
    return Unsupported(
        f"{shown(adapter.ref)}: {why}, so its update is no sum that could be made without the "
        "base. `adaptertools merge` can put it into the base."
    )


def _whole(adapter: Adapter, entry: Entry, base: Shapes | None) -> tuple[int, ...]:
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


def _low(
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
        raise _dependent(adapter, f"the update of {shown(entry.target)} is {kinds}")
    bias = entry.parts.get("lora_B.bias")
    if bias is not None and bias.shape != out:
        raise Mismatch(
            f"{shown(bias.name)} is {list(bias.shape)}, and the module has {whole[0]} outputs. "
            "Save the adapter again."
        )
    return low


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
    if len(made.entries) < len(adapter.entries):
        raise Unreadable(f"{shown(adapter.ref)} adapts one module twice. Save it again.")
