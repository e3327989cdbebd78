"""What each adapter says about which tensor of the base: all it stores is part of a claim.

A claim that finds no tensor stops the merge before anything is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from adaptertools.adapter import Adapter, Entry, Saved, TokenRows
from adaptertools.errors import Mismatch, shown
from adaptertools.layouts.direct import Names

Kind = Literal["base", "saved", "entry", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One adapter's say about one tensor."""

    adapter: Adapter
    scale: float
    kind: Kind  # "base": the base weight saved along; "saved": a trained copy of the whole
    tensor: str
    item: Entry | Saved | TokenRows
    new: bool = False  # the base has no such tensor
    shared: bool = False  # the change is meant for every tensor that is tied to this one
    also: tuple[str, ...] = ()  # the tensors of equal copies, consumed with it

    @property
    def parts(self) -> tuple[str, ...]:
        """The adapter's tensors that it consumes."""
        if isinstance(self.item, Entry):
            return (*(spec.name for spec in self.item.parts.values()), *self.also)
        return (self.item.spec.name, *self.also)


def claims(
    adapter: Adapter, scale: float, names: Names, aliases: Mapping[str, str], fresh: Collection[str]
) -> list[Claim]:
    """Resolve every entry, saved tensor and token row of an adapter.

    `aliases` are tied names without a tensor of their own, `fresh` the tensors that the new
    architecture adds. Raises Mismatch where something resolves to nothing, naming the first five.
    """
    found, lost = [], []
    for kind, name, item in _items(adapter):
        tensor = names.weight(name) if kind in ("entry", "rows") else names.tensor(name)
        wanted = f"{name}.weight" if kind in ("entry", "rows") else name
        tensor = tensor or (wanted if wanted in aliases else None)
        new = tensor is None and wanted in fresh and isinstance(item, Saved)
        if tensor is None and not new:
            lost.append(wanted)
            continue
        found.append(
            Claim(
                adapter=adapter, scale=scale, kind=kind, tensor=tensor or wanted, item=item, new=new
            )
        )
    if lost:
        raise _unmatched(adapter, lost, len(found) + len(lost), names)
    return found


def _items(adapter: Adapter) -> Iterator[tuple[Kind, str, Entry | Saved | TokenRows]]:
    for saved in adapter.saved:
        yield ("saved" if saved.own else "base"), saved.name, saved
    for entry in adapter.entries:
        yield "entry", entry.target, entry
    for rows in adapter.rows:
        yield "rows", rows.target, rows


def _unmatched(adapter: Adapter, lost: list[str], total: int, names: Names) -> Mismatch:
    lines = []
    for name in lost[:5]:
        near = names.nearest(name)
        lines.append(shown(name) + (f" (nearest: {shown(near)})" if near else ""))
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    said = f" It names {shown(adapter.base)} as its base." if adapter.base else ""
    return Mismatch(
        f"{len(lost)} of the {total} things that {shown(adapter.ref)} changes match no tensor of "
        f"the base: {'; '.join(lines)}{more}.{said} Nothing was written. Pass the right base as "
        "--base, or save the adapter with the names of this one."
    )
