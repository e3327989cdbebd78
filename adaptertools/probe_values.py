"""What W'·x should be, by algebra in float64: other arithmetic than the merge's tiles.

Of an update that has no algebra here the rows are computed a second time, in float64 and in other
tiles: that finds what was written wrong, not what a formula has wrong (`recomputed` tells which).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import singledispatch
from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.probe_rows import Part, base_rows
from adaptertools.tensorfile import dtype_of
from adaptertools.update import Update, change
from adaptertools.update.dora import Dora
from adaptertools.update.formed import Formed
from adaptertools.update.lowrank import LowRank
from adaptertools.update.rows import Rows, Toward
from adaptertools.update.shift import Shift
from adaptertools.update.truncate import Truncate
from adaptertools.update.within import Within

if TYPE_CHECKING:
    from adaptertools.update import Array

# Rows of W·x for the weight as it is after some updates: (first row, rows of the base, x) -> rows.
Value = Callable[[int, "Array", "Array"], "Array"]


def expected(edit: Edit) -> Value:
    """Give the function that tells rows of W'·x from rows of W and x, all in float64."""
    if recomputed(edit):
        return _again(edit)
    value: Value = lambda row, before, x: before @ x  # noqa: E731
    for update in edit.updates:
        value = after(update, value, edit)
    return value


def _again(edit: Edit) -> Value:
    """Apply every update to the rows themselves, in float64."""
    base = Exact(edit)
    opened = [update.open(base) for update in edit.updates]

    def value(row: int, before: Array, x: Array) -> Array:
        rows = before.copy()
        change(opened, rows, before, row)
        moved: Array = rows @ x
        return moved

    return value


class Exact:
    """An edit's source as the `Base` that updates see, in float64."""

    dtype = "float64"

    def __init__(self, edit: Edit | Part) -> None:
        self.edit, self.shape = edit, (edit.source.rows, edit.source.columns)

    def tiles(self) -> Iterator[tuple[int, Array]]:
        """Give the rows, some at a time."""
        return base_rows(self.edit)

    def stored(self, values: Array) -> Array:
        """Round values as storing them would."""
        return values.astype(dtype_of(self.edit.source.dtype))


def recomputed(edit: Edit) -> bool:
    """Tell whether an update has no algebra here, so that its rows are computed a second time."""
    return any(_no_algebra(update, edit.source.columns) for update in edit.updates)


def _no_algebra(update: Update, columns: int) -> bool:
    if isinstance(update, Within):
        # What depends on the weight is followed in whole rows only.
        cut = update.columns != (0, columns) and not update.additive
        return cut or _no_algebra(update.update, update.block[1])
    return after.dispatch(type(update)) is _unknown


def _unknown(update: Update, inner: Value, edit: Edit | Part) -> Value:
    raise TypeError(f"No probe for {type(update).__name__}.")


after = singledispatch(_unknown)


@after.register(Formed)
def _(update: Formed, inner: Value, edit: Edit) -> Value:
    rows = update.matrix.form("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        moved: Array = update.scale * (rows(row, row + len(before)) @ x)
        return inner(row, before, x) + moved

    return value


@after.register(LowRank)
def _(update: LowRank, inner: Value, edit: Edit) -> Value:
    up, down = update.up.read("float64"), update.down.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        part: Array = up[row : row + len(before)]
        moved: Array = update.scale * (part @ (down @ x))
        return inner(row, before, x) + moved

    return value


@after.register(Dora)
def _(update: Dora, inner: Value, edit: Edit) -> Value:
    import numpy as np

    moved = after(update.low, inner, edit)
    up, down = update.low.up.read("float64"), update.low.down.read("float64")
    magnitude, scale = update.magnitude.read("float64").reshape(-1), update.low.scale
    gram = down @ down.T
    columns = _column_factors(update, edit, up, down, magnitude) if update.by_column else None

    def value(row: int, before: Array, x: Array) -> Array:
        old = inner(row, before, x)
        if columns is not None:
            new = moved(row, before, columns[:, None] * x)
        else:
            # ‖w + s·b·A‖² = ‖w‖² + 2s·b·(A w) + s²·b·(AAᵀ)·b
            part = up[row : row + len(before)]
            square = (before**2).sum(1) + 2 * scale * (part * (before @ down.T)).sum(1)
            square += scale**2 * ((part @ gram) * part).sum(1)
            factor = magnitude[row : row + len(before)] / np.sqrt(np.maximum(square, 1e-300))
            new = factor[:, None] * moved(row, before, x)
        return old + update.weight * (new - old)

    return value


def _column_factors(update: Dora, edit: Edit, up: Array, down: Array, magnitude: Array) -> Array:
    import numpy as np

    scale, square, cross = update.low.scale, np.zeros(down.shape[1]), np.zeros_like(down)
    for row, before in base_rows(edit):
        square += (before**2).sum(0)
        cross += up[row : row + len(before)].T @ before
    square += 2 * scale * (cross * down).sum(0) + scale**2 * ((up.T @ up @ down) * down).sum(0)
    factors: Array = magnitude / np.sqrt(np.maximum(square, 1e-300))
    return factors


@after.register(Rows)
def _(update: Rows, inner: Value, edit: Edit) -> Value:
    place = {index: i for i, index in enumerate(update.indices)}
    values = update.values.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        new = inner(row, before, x).copy()
        for index in place.keys() & set(range(row, row + len(before))):
            new[index - row] += update.weight * (values[place[index]] @ x - new[index - row])
        return new

    return value


@after.register(Toward)
def _(update: Toward, inner: Value, edit: Edit) -> Value:
    def value(row: int, before: Array, x: Array) -> Array:
        old = inner(row, before, x)
        whole = update.values.rows(row, row + len(before), "float64") @ x
        return old + update.weight * (whole - old)

    return value


@after.register(Shift)
def _(update: Shift, inner: Value, edit: Edit) -> Value:
    vector = update.vector.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        part: Array = vector[row : row + len(before)]
        return inner(row, before, x) + update.scale * (part * x)

    return value


@after.register(Truncate)
def _(update: Truncate, inner: Value, edit: Edit) -> Value:
    import numpy as np

    # The components that go are those of the smallest eigenvalues of WᵀW (or WWᵀ): W·V·Vᵀ.
    whole: Array = np.concatenate([before for _, before in base_rows(edit)])
    if not np.isfinite(whole).all():
        left, right = whole[:, :1] * np.nan, whole[:1] * np.nan
    elif whole.shape[0] >= whole.shape[1]:
        right = np.linalg.eigh(whole.T @ whole)[1][:, : update.rank].T
        left = whole @ right.T
    else:
        left = np.linalg.eigh(whole @ whole.T)[1][:, : update.rank]
        right = left.T @ whole

    def value(row: int, before: Array, x: Array) -> Array:
        gone: Array = left[row : row + len(before)] @ (right @ x)
        return inner(row, before, x) - update.weight * gone

    return value


# What multiplies the weight, or blocks of it, registers its algebra with `after`, defined above.
from adaptertools import probe_blocks as probe_blocks  # noqa: E402
from adaptertools import probe_framed as probe_framed  # noqa: E402
from adaptertools import probe_turned as probe_turned  # noqa: E402
