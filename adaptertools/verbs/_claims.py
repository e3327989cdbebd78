"""What each adapter says about which tensor of the base: all it stores is part of a claim.

A claim that finds no tensor stops the merge before anything is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from adaptertools.adapter import Adapter, Entry, Saved, TokenRows
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.layouts.direct import WEIGHTS, Names
from adaptertools.layouts.pieces import Piece

Kind = Literal["base", "saved", "entry", "fused", "rows"]
CHANGES = ("entry", "fused", "saved")  # of a tensor as a whole
_MODULES = ("entry", "rows")  # which name a module, the others a tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One adapter's say about one tensor."""

    adapter: Adapter
    scale: float
    # "base": the base weight saved along; "saved": a trained copy of the whole; "fused": an entry
    # for a parameter, not for a module.
    kind: Kind
    tensor: str
    item: Entry | Saved | TokenRows
    new: bool = False  # the base has no such tensor
    shared: bool = False  # the change is meant for every tensor that is tied to this one
    also: tuple[str, ...] = ()  # the tensors of equal copies, consumed with it
    pieces: tuple[Piece, ...] = ()  # where the base holds it otherwise than as one tensor
    asked: str = ""  # its name in the adapter, where only transformers knows it in this base

    @property
    def parts(self) -> tuple[str, ...]:
        """The adapter's tensors that it consumes."""
        if isinstance(self.item, Entry):
            return (*(spec.name for spec in self.item.parts.values()), *self.also)
        return (self.item.spec.name, *self.also)


def claims(
    adapter: Adapter, scale: float, names: Names, aliases: Mapping[str, str],
    fresh: Collection[str], changed: bool,
) -> list[Claim]:  # fmt: skip
    """Resolve every entry, saved tensor and token row of an adapter.

    `aliases` are tied names without a tensor of their own, `fresh` the tensors outside the base
    model, new ones where the class has `changed`. Raises Mismatch where something resolves to
    nothing, naming the first five.
    """
    found, lost, why = [], [], ""
    for kind, name, item in _items(adapter):
        spellings = _spellings(kind, name)
        tensor = next((n for each in spellings if (n := names.tensor(each))), None)
        wanted = spellings[0]
        new = tensor is None and wanted in fresh and isinstance(item, Saved)
        pieces: tuple[Piece, ...] = ()
        if isinstance(item, Entry) and item.fused is not None:
            # transformers may hold it transposed under the same name.
            tensor, pieces = None, names.converted(wanted)
        elif tensor is None and wanted not in aliases and not (new and changed):
            pieces, why = _pieces(names, spellings, why)
        if not tensor and not pieces and not new and wanted not in aliases:
            lost.append(wanted)
            continue
        found.append(
            Claim(
                adapter=adapter, scale=scale, kind=kind, item=item, new=new and not pieces,
                tensor=tensor or (pieces[0].tensor if pieces else wanted),
                pieces=() if len(pieces) == 1 and pieces[0].plain else pieces,
                asked=wanted if pieces and pieces[0].tensor != wanted else "",
            )
        )  # fmt: skip
    if lost:
        raise _unmatched(adapter, lost, len(found) + len(lost), names, why)
    return found


def _spellings(kind: Kind, name: str) -> list[str]:
    """Give the tensors that may be meant: a module's weight, or the tensor itself."""
    return [f"{name}.{weight}" for weight in WEIGHTS] if kind in _MODULES else [name]


def _pieces(names: Names, spellings: Sequence[str], why: str) -> tuple[tuple[Piece, ...], str]:
    """Ask how transformers reads the base; where it cannot say, give the reason."""
    try:
        asked = () if why else (names.converted(each) for each in spellings)
        return next((found for found in asked if found), ()), why
    except Unsupported as error:
        return (), str(error)


def _items(adapter: Adapter) -> Iterator[tuple[Kind, str, Entry | Saved | TokenRows]]:
    for saved in adapter.saved:
        yield ("saved" if saved.own else "base"), saved.name, saved
    for entry in adapter.entries:
        if entry.fused is None:
            yield "entry", entry.target, entry
        else:
            yield "fused", entry.fused.parameter, entry
    for rows in adapter.rows:
        yield "rows", rows.target, rows


def _unmatched(adapter: Adapter, lost: list[str], total: int, names: Names, why: str) -> Mismatch:
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
        + (f" Whether other names are meant is not known: {why}" if why else "")
    )
