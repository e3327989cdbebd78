"""The part of an update that one block of the weight gets, where a base stores blocks apart.

Each kind of update is cut as its formula allows: exactly, or not at all. The base sees only the
block then, so what looks along a whole row or column needs the whole of it in the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

from adaptertools.errors import Unsupported
from adaptertools.update import Matrix, Update
from adaptertools.update.dora import Dora
from adaptertools.update.formed import Formed
from adaptertools.update.lowrank import LowRank
from adaptertools.update.matrices import Turned as TurnedMatrix
from adaptertools.update.matrices import oriented
from adaptertools.update.modulated import Modulated
from adaptertools.update.paired import Paired
from adaptertools.update.picked import PickedForm, PickedRows, Places, picked
from adaptertools.update.rows import Rows, Toward
from adaptertools.update.scaled import Scaled
from adaptertools.update.shift import Shift
from adaptertools.update.turned import Turned


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows and columns of the model's weight, None for all, and whether they are stored turned."""

    rows: Places | None
    columns: Places | None
    turned: bool


def sliced(
    update: Update, rows: tuple[int, int] | None, columns: tuple[int, int] | None, *,
    turned: bool = False, order: Sequence[int] = (),
) -> Update:  # fmt: skip
    """Give the update of a block of which a base makes a matrix of its own, or a part of one.

    `update` is that of the whole weight as the model has it; `rows` and `columns` are the block, as
    first and one after the last, None for all. `turned`: it is stored transposed. Row i of the
    block is row order[i] of what is stored, that being turned back first.

    Raises Unsupported, naming the kind, for an update whose part is no update of the block alone.
    """
    places: list[Places | None] = [range(*span) if span else None for span in (rows, columns)]
    if order:
        back = sorted(range(len(order)), key=order.__getitem__)
        own = places[0] or range(len(order))
        places[0] = tuple(own[i] for i in back)
    return part(update, Cut(places[0], places[1], turned))


def _unknown(update: Update, cut: Cut) -> Update:
    raise refusal(update, "it is not one that can be applied to a block alone")


part = singledispatch(_unknown)


def refusal(update: Update, why: str) -> Unsupported:
    """Say that this update cannot be cut."""
    kind = update.describe()["kind"]
    return Unsupported(
        f"The base stores this weight in parts, or in another order, and the adapter's update, "
        f"{kind}, cannot be cut so: {why}. Save the base with the model's own tensors "
        "(save_original_format=False), or merge with PEFT."
    )


def _whole(places: Places | None, count: int, update: Update, along: str) -> None:
    if places is not None and sorted(places) != [*range(count)]:
        raise refusal(update, f"it needs whole {along}")


def _turned(matrix: Matrix, turned: bool) -> Matrix:
    return TurnedMatrix(matrix) if turned else matrix


@part.register(LowRank)
def _low(update: LowRank, cut: Cut) -> LowRank:
    up, down = picked(update.up, cut.rows), picked(update.down, None, cut.columns)
    up, down = oriented(up, down, cut.turned)
    return LowRank(up, down, update.scale)


@part.register(Dora)
def _(update: Dora, cut: Cut) -> Update:
    rows, columns = update.shape
    if update.by_column:
        _whole(cut.rows, rows, update, "columns")
    else:
        _whole(cut.columns, columns, update, "rows")
    own = cut.columns if update.by_column else cut.rows
    flat = update.magnitude.shape[0] == 1
    magnitude = picked(update.magnitude, *((None, own) if flat else (own, None)))
    by_column = update.by_column != cut.turned
    return replace(update, low=_low(update.low, cut), magnitude=magnitude, by_column=by_column)


@part.register(Modulated)
def _(update: Modulated, cut: Cut) -> Update:
    return Modulated(_low(update.by, cut))


@part.register(Scaled)
def _(update: Scaled, cut: Cut) -> Update:
    high, wide = update.table.shape
    if min(high, wide) > 1:
        raise refusal(update, "its rows are multiplied in groups")
    rows, columns = cut.rows if high > 1 else None, cut.columns if wide > 1 else None
    return replace(update, table=_turned(picked(update.table, rows, columns), cut.turned))


@part.register(Shift)
def _(update: Shift, cut: Cut) -> Update:
    if cut.turned:
        raise refusal(update, "a vector has no transpose")
    return replace(update, vector=picked(update.vector, cut.rows))


@part.register(Turned)
def _(update: Turned, cut: Cut) -> Update:
    if cut.turned or (cut.columns is not None and cut.columns != range(update.turn.size)):
        raise refusal(update, "it turns whole rows")
    rows = picked(update.rows, cut.rows) if update.rows is not None else None
    return replace(update, rows=rows)


@part.register(Paired)
def _(update: Paired, cut: Cut) -> Update:
    rows, group = cut.rows, update.together
    even = rows is None or isinstance(rows, range)
    if cut.turned or not even or (rows and (rows[0] % group or len(rows) % group)):
        raise refusal(update, f"it mixes rows in groups of {group}")
    return replace(update, pairs=picked(update.pairs, rows))


@part.register(Rows)
def _(update: Rows, cut: Cut) -> Update:
    if cut.turned:
        raise refusal(update, "it replaces rows")
    place = {row: i for i, row in enumerate(cut.rows)} if cut.rows is not None else None
    kept = [i for i, row in enumerate(update.indices) if place is None or row in place]
    indices = (update.indices[i] for i in kept)
    indices = indices if place is None else (place[row] for row in indices)
    return Rows(tuple(indices), picked(update.values, tuple(kept), cut.columns), update.weight)


@part.register(Toward)
def _(update: Toward, cut: Cut) -> Update:
    return replace(update, values=PickedRows(update.values, _ranges(update, cut)))


@part.register(Formed)
def _(update: Formed, cut: Cut) -> Update:
    return replace(update, matrix=PickedForm(update.matrix, _ranges(update, cut)))


def _ranges(update: Any, cut: Cut) -> tuple[range, range]:
    rows, columns = (
        range(count) if places is None else places
        for places, count in zip((cut.rows, cut.columns), update.shape, strict=True)
    )
    if cut.turned or not (isinstance(rows, range) and isinstance(columns, range)):
        raise refusal(update, "it is made row by row")
    return rows, columns
