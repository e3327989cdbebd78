"""Hold a written weight against base and adapter by random probes: is W'x what it should be?

Independent of the merge: matrix-vector products in float64 instead of tiles of B·A, norms by
algebra instead of sums, a Gram matrix instead of an SVD, and its own reading. With x of ±1,
storing rounds each element of W' by at most u·|w| (u the unit roundoff), so row i of W'x is off
by about u·‖W'ᵢ‖₂; an update that is missing, doubled, transposed or scaled wrong is off by its
own size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import singledispatch
from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.tensorfile import TensorSpec, dtype_of
from adaptertools.unpacked import decoded
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from adaptertools.update.rows import Rows, Toward
from adaptertools.update.shift import Shift
from adaptertools.update.truncate import Truncate

if TYPE_CHECKING:
    from adaptertools.update import Array

PROBES = 4
ROWS = 1 << 20  # elements per reading
# Unit roundoff and half the smallest subnormal of each stored dtype.
_ROUNDOFF = {"BF16": (2**-8, 2**-134), "F16": (2**-11, 2**-25), "F32": (2**-24, 2**-150),
             "F64": (2**-50, 0.0)}  # fmt: skip


def applied(edit: Edit, written: TensorSpec, nonfinite: bool = False) -> str:
    """Check an edited weight; give the fault in a sentence, empty where there is none.

    Rows with NaN or infinity are a fault, or left out where `nonfinite` allows them.
    """
    import numpy as np

    seed = zlib.crc32(edit.name.encode())
    x = np.random.default_rng(seed).choice([-1.0, 1.0], (edit.source.columns, PROBES))
    unit, least = _ROUNDOFF[edit.dtype]
    # A second rounding, of the truncated base, is part of what KaSA means.
    unit *= 1 + sum(isinstance(update, Truncate) for update in edit.updates)
    off, size, slope, weight, noise = [], [], 0.0, 0.0, 0.0
    with np.errstate(all="ignore"):
        value = expected(edit)
        for row, before, after in _pairs(edit, written):
            wanted = value(row, before, x) - before @ x
            found = after @ x - before @ x
            bound = np.sqrt(np.einsum("ij,ij->i", after, after)) * unit
            bound += least * before.shape[1] ** 0.5 + np.abs(wanted).max(axis=1) * 2**-20
            sound = np.isfinite(found - wanted).all(axis=1) & np.isfinite(bound)
            if not (sound.all() or nonfinite):
                return "It holds NaN or infinity."
            found, wanted, bound = found[sound], wanted[sound], bound[sound]
            off.append(found - wanted)
            size.append(bound)
            slope += float((found * wanted).sum())
            weight += float((wanted * wanted).sum())
            noise += float(((bound[:, None] * wanted) ** 2).sum())
    return _verdict(np.concatenate(off), np.concatenate(size), slope, weight, noise)


def _verdict(off: Array, size: Array, slope: float, weight: float, noise: float) -> str:
    import numpy as np

    if not off.size:
        return ""
    worst = float((np.abs(off).max(axis=1) / np.maximum(size, 1e-300)).max(initial=0.0))
    if worst > 8:
        return f"W'x differs from Wx + update by {worst:.3g} times the rounding error."
    spread = float(np.sqrt((off**2).mean()) / max(np.sqrt((size**2).mean()), 1e-300))
    if off.size >= 64 and spread > 1:
        return f"W'x scatters around Wx + update by {spread:.3g} times the rounding error."
    if weight and abs(slope / weight - 1) > 6 * noise**0.5 / weight + 1e-3:
        return f"{slope / weight:.4g} of the update is in the weight, 1 was expected."
    return ""


def converted(edit: Edit, written: TensorSpec) -> str:
    """Check a tensor that was only decoded, or rounded to another dtype."""
    import numpy as np

    unit, least = _ROUNDOFF[written.dtype]
    for _, before, after in _pairs(edit, written):
        wrong = ~(np.abs(after - before) <= np.abs(before) * unit * (1 + 1e-9) + least)
        if bool((wrong & np.isfinite(before)).any()):
            return f"It is not the source rounded to {written.dtype}."
    return ""


def _pairs(edit: Edit, written: TensorSpec) -> Iterator[tuple[int, Array, Array]]:
    for row, before in base_rows(edit):
        yield row, before, part_of(written, row, len(before))


def part_of(spec: TensorSpec, row: int, count: int) -> Array:
    """Read some rows in float64."""
    import numpy as np

    dtype, columns = dtype_of(spec.dtype), max(spec.columns, 1)
    offset = spec.start + row * columns * dtype.itemsize
    flat = np.fromfile(spec.file, dtype, count * columns, offset=offset)
    return flat.reshape(-1, columns).astype(np.float64)


def rows_of(spec: TensorSpec) -> Iterator[tuple[int, Array]]:
    """Give the rows of a plain tensor in float64, some at a time."""
    step = max(ROWS // max(spec.columns, 1), 1)
    for row in range(0, spec.rows, step):
        yield row, part_of(spec, row, min(step, spec.rows - row))


def base_rows(edit: Edit) -> Iterator[tuple[int, Array]]:
    """Give the rows of an edit's source in float64, decoded where it is packed."""
    if edit.packed is None:
        yield from rows_of(edit.source)
    else:
        for row, rows in decoded(edit.packed):
            yield row, rows.astype("float64")


def expected(edit: Edit) -> Value:
    """Give the function that tells rows of W'·x from rows of W and x, all in float64."""
    value: Value = lambda row, before, x: before @ x  # noqa: E731
    for update in edit.updates:
        value = _after(update, value, edit)
    return value


# Rows of W·x for the weight as it is after some updates: (first row, rows of the base, x) -> rows.
Value = Callable[[int, "Array", "Array"], "Array"]


@singledispatch
def _after(update: Update, inner: Value, edit: Edit) -> Value:
    raise TypeError(f"No probe for {type(update).__name__}.")


@_after.register(LowRank)
def _(update: LowRank, inner: Value, edit: Edit) -> Value:
    up, down = update.up.read("float64"), update.down.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        part: Array = up[row : row + len(before)]
        moved: Array = update.scale * (part @ (down @ x))
        return inner(row, before, x) + moved

    return value


@_after.register(Dora)
def _(update: Dora, inner: Value, edit: Edit) -> Value:
    import numpy as np

    moved = _after(update.low, inner, edit)
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


@_after.register(Rows)
def _(update: Rows, inner: Value, edit: Edit) -> Value:
    place = {index: i for i, index in enumerate(update.indices)}
    values = update.values.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        new = inner(row, before, x).copy()
        for index in place.keys() & set(range(row, row + len(before))):
            new[index - row] += update.weight * (values[place[index]] @ x - new[index - row])
        return new

    return value


@_after.register(Toward)
def _(update: Toward, inner: Value, edit: Edit) -> Value:
    def value(row: int, before: Array, x: Array) -> Array:
        old = inner(row, before, x)
        whole = update.values.rows(row, row + len(before), "float64") @ x
        return old + update.weight * (whole - old)

    return value


@_after.register(Shift)
def _(update: Shift, inner: Value, edit: Edit) -> Value:
    vector = update.vector.read("float64")

    def value(row: int, before: Array, x: Array) -> Array:
        part: Array = vector[row : row + len(before)]
        return inner(row, before, x) + update.scale * (part * x)

    return value


@_after.register(Truncate)
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
        return inner(row, before, x) - gone

    return value
