"""What W'·x should be where the weight is multiplied: x is multiplied instead, or W·x is.

The algebra that `probe_values` looks up, for updates that depend on the weight; all in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.probe_rows import base_rows
from adaptertools.probe_values import Value, after
from adaptertools.update.coupled import Coupled
from adaptertools.update.modulated import Modulated
from adaptertools.update.paired import Paired
from adaptertools.update.scaled import Scaled
from adaptertools.update.through import Through
from adaptertools.update.turned import Turned

if TYPE_CHECKING:
    from adaptertools.update import Array


@after.register(Scaled)
def _(update: Scaled, inner: Value, edit: Edit) -> Value:
    import numpy as np

    table, count = update.table.read("float64"), edit.source.rows

    def value(row: int, before: Array, x: Array) -> Array:
        old = inner(row, before, x)
        if update.table.shape[1] == 1 and update.table.shape[0] > 1:
            new = table[row : row + len(before)] * old
        else:
            new = np.empty_like(old)
            groups = np.arange(row, row + len(before)) * len(table) // count
            for group in np.unique(groups):
                rows = groups == group
                new[rows] = inner(row, before, table[group, :, None] * x)[rows]
        return old + update.weight * (new - old)

    return value


@after.register(Turned)
def _(update: Turned, inner: Value, edit: Edit) -> Value:
    scales = update.rows.read("float64") if update.rows is not None else None

    def value(row: int, before: Array, x: Array) -> Array:
        old, new = inner(row, before, x), inner(row, before, update.turn.times(x))
        if scales is not None:
            new = new * scales[row : row + len(before)]
        return old + update.weight * (new - old)

    return value


@after.register(Modulated)
def _(update: Modulated, inner: Value, edit: Edit) -> Value:
    up, down = update.by.up.read("float64"), update.by.down.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        # (W ∘ u·dᵀ)·x = u ∘ (W·(d ∘ x)), for each component
        new = inner(row, before, x).copy()
        for left, right in zip(up.T, down, strict=True):
            part = left[row : row + len(before), None]
            new += update.by.scale * part * (before @ (right[:, None] * x))
        return new

    return value


@after.register(Paired)
def _(update: Paired, inner: Value, edit: Edit) -> Value:
    import numpy as np

    pairs, half = update.pairs.read("float64"), update.together // 2
    done: list[Array] = []  # the last x, and W·x for all rows: partners may lie anywhere

    def value(row: int, before: Array, x: Array) -> Array:
        if not done or not np.array_equal(done[0], x):
            done[:] = [x, np.concatenate([inner(at, rows, x) for at, rows in base_rows(edit)])]
        place = np.arange(row, row + len(before))
        partner = np.where(place // half % 2 == 0, place + half, place - half)
        whole, part = done[1], pairs[row : row + len(before)]
        new = part[:, :1] * whole[place] + part[:, 1:] * whole[partner]
        return whole[place] + update.weight * (new - whole[place])  # type: ignore[no-any-return]

    return value


@after.register(Through)
def _(update: Through, inner: Value, edit: Edit) -> Value:
    import numpy as np

    left, up = update.core.left(), update.core.up()
    if update.transposed:
        seen = np.concatenate([rows @ left.T for _, rows in base_rows(edit)]).T
    else:
        seen = np.zeros((len(left), edit.source.columns))
        for at, rows in base_rows(edit):
            seen += left[:, at : at + len(rows)] @ rows
    between = update.core.between(seen)
    first, second = (between.T, up.T) if update.transposed else (up, between)

    def value(row: int, before: Array, x: Array) -> Array:
        moved: Array = first[row : row + len(before)] @ (second @ x)
        return inner(row, before, x) + update.weight * moved

    return value


@after.register(Coupled)
def _(update: Coupled, inner: Value, edit: Edit) -> Value:
    up, down = update.by.up.read("float64"), update.by.down.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        rows = update.weight.rows(row, row + len(before), "float64")
        moved: Array = update.by.scale * ((rows @ up) @ down) * x
        return inner(row, before, x) + moved

    return value
