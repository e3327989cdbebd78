"""What W'·x should be where only a block of W changes, or each expert's own matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.probe_rows import Part
from adaptertools.probe_values import Value, after
from adaptertools.update.experts import Experts
from adaptertools.update.within import Within

if TYPE_CHECKING:
    from adaptertools.update import Array


@after.register(Within)
def _(update: Within, inner: Value, edit: Edit | Part) -> Value:
    import numpy as np

    (first, last), columns = update.rows, update.columns
    cut = columns != (0, edit.source.columns)

    def before_it(row: int, before: Array, x: Array) -> Array:
        # In some of the columns only additive updates are followed: their change is added.
        return np.zeros((len(before), x.shape[1])) if cut else inner(row + first, before, x)

    own = after(update.update, before_it, Part(edit, update.rows, columns))

    def value(row: int, before: Array, x: Array) -> Array:
        new = inner(row, before, x)
        here = slice(max(first - row, 0), max(last - row, 0))
        part = before[here, slice(*columns)]
        if len(part):
            new = new.copy()
            moved = own(row + here.start - first, part, x[slice(*columns)])
            new[here] = new[here] + moved if cut else moved
        return new

    return value


@after.register(Experts)
def _(update: Experts, inner: Value, edit: Edit | Part) -> Value:
    up, down = update.up.read("float64"), update.down.read("float64")
    axes = (update.rank, update.experts)
    b = up.reshape(len(up), *(axes if update.rank_major else axes[::-1]))
    b = b if update.rank_major else b.swapaxes(1, 2)  # (out, rank, experts)
    a = down.reshape(update.experts, update.rank, -1)
    height = update.shape[0] // update.experts

    def value(row: int, before: Array, x: Array) -> Array:
        new = inner(row, before, x).copy()
        place = range(row, row + len(before))
        for e in range(place.start // height, (place.stop - 1) // height + 1):
            own = range(max(e * height, place.start), min((e + 1) * height, place.stop))
            rows = slice(own.start - e * height, own.stop - e * height)
            if update.turned:
                moved = a[e].T[rows] @ (b[..., e].T @ x)
            else:
                moved = b[rows, :, e] @ (a[e] @ x)
            new[own.start - row : own.stop - row] += update.scale * moved
        return new

    return value
