"""Hold a written weight against base and adapter by random probes: is W'x what it should be?

Independent of the merge: matrix-vector products in float64 instead of tiles of B·A, norms by algebra
instead of sums, a Gram matrix instead of an SVD, and its own reading. With x of ±1, storing rounds
each element of W' by at most u·|w| (u the unit roundoff), so row i of W'x is off by about
u·‖W'ᵢ‖₂; an update that is missing, doubled, transposed or scaled wrong is off by its own size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from adaptertools.jobs import Edit
from adaptertools.tensorfile import TensorSpec, dtype_of
from adaptertools.update import Dora, LowRank, Rows, Shift, Toward, Truncate, Update

if TYPE_CHECKING:
    from adaptertools.update import Array

PROBES = 4
ROWS = 1 << 20  # elements per reading
# Unit roundoff and half the smallest subnormal of each stored dtype.
_ROUNDOFF = {"BF16": (2**-8, 2**-134), "F16": (2**-11, 2**-25), "F32": (2**-24, 2**-150),
             "F64": (2**-50, 0.0)}  # fmt: skip


def applied(edit: Edit, written: TensorSpec) -> str:
    """Check an edited weight; give the fault in a sentence, empty where there is none."""
    import numpy as np

    seed = zlib.crc32(edit.name.encode())
    x = np.random.default_rng(seed).choice([-1.0, 1.0], (edit.source.columns, PROBES))
    unit, least = _ROUNDOFF[edit.dtype]
    # A second rounding, of the truncated base, is part of what KaSA means.
    unit *= 1 + sum(isinstance(update, Truncate) for update in edit.updates)
    off, size, slope, weight = [], [], 0.0, 0.0
    moves = [_move(update, x, edit) for update in edit.updates]
    noise = 0.0
    for row, before, after in _pairs(edit.source, written):
        product = before @ x
        wanted = sum(move(row, before, product) for move in moves)
        found = after @ x - product
        bound = np.sqrt(np.einsum("ij,ij->i", after, after)) * unit
        bound += least * before.shape[1] ** 0.5 + np.abs(wanted).max(axis=1) * 2**-20
        off.append(found - wanted)
        size.append(bound)
        slope += float((found * wanted).sum())
        weight += float((wanted * wanted).sum())
        noise += float(((bound[:, None] * wanted) ** 2).sum())
    return _verdict(np.concatenate(off), np.concatenate(size), slope, weight, noise)


def _verdict(off: Array, size: Array, slope: float, weight: float, noise: float) -> str:
    import numpy as np

    if not np.isfinite(off).all():
        return "It holds NaN or infinity."
    worst = float((np.abs(off).max(axis=1) / np.maximum(size, 1e-300)).max(initial=0.0))
    if worst > 8:
        return f"W'x differs from Wx + update by {worst:.3g} times the rounding error."
    spread = float(np.sqrt((off**2).mean()) / max(np.sqrt((size**2).mean()), 1e-300))
    if off.size >= 64 and spread > 1:
        return f"W'x scatters around Wx + update by {spread:.3g} times the rounding error."
    if weight and abs(slope / weight - 1) > 6 * noise**0.5 / weight + 1e-3:
        return f"{slope / weight:.4g} of the update is in the weight, 1 was expected."
    return ""


def converted(source: TensorSpec, written: TensorSpec) -> str:
    """Check a tensor that was only rounded to another dtype."""
    import numpy as np

    unit, least = _ROUNDOFF[written.dtype]
    for _, before, after in _pairs(source, written):
        wrong = np.abs(after - before) > np.abs(before) * unit * (1 + 1e-9) + least
        if bool((wrong & np.isfinite(before)).any()):
            return f"It is not the source rounded to {written.dtype}."
    return ""


def _pairs(source: TensorSpec, written: TensorSpec) -> Iterator[tuple[int, Array, Array]]:
    for (row, before), (_, after) in zip(_rows(source), _rows(written), strict=True):
        yield row, before, after


def _rows(spec: TensorSpec) -> Iterator[tuple[int, Array]]:
    import numpy as np

    dtype, columns = dtype_of(spec.dtype), max(spec.columns, 1)
    step = max(ROWS // columns, 1)
    for row in range(0, spec.rows, step):
        count = min(step, spec.rows - row) * columns
        offset = spec.start + row * columns * dtype.itemsize
        flat = np.fromfile(spec.file, dtype, count, offset=offset)
        yield row, flat.reshape(-1, columns).astype(np.float64)


# A move gives what an update adds to Wx: (first row, rows of W, rows of Wx) -> rows.
Move = Callable[[int, "Array", "Array"], "Array"]


@singledispatch
def _move(update: Update, x: Array, edit: Edit) -> Move:
    raise TypeError(f"No probe for {type(update).__name__}.")


@_move.register(LowRank)
def _(update: LowRank, x: Array, edit: Edit) -> Move:
    up, seen = update.up.read("float64"), update.down.read("float64") @ x
    return lambda row, before, product: update.scale * (up[row : row + len(before)] @ seen)


@_move.register(Dora)
def _(update: Dora, x: Array, edit: Edit) -> Move:
    up, down = update.low.up.read("float64"), update.low.down.read("float64")
    magnitude, scale = update.magnitude.read("float64").reshape(-1), update.low.scale
    if update.by_column:
        return _dora_columns(update, x, edit, up, down, magnitude)
    gram, seen = down @ down.T, down @ x

    def move(row: int, before: Array, product: Array) -> Array:
        import numpy as np

        part = up[row : row + len(before)]
        # ‖w + s·b·A‖² = ‖w‖² + 2s·b·(A w) + s²·b·(AAᵀ)·b
        square = (before**2).sum(1) + 2 * scale * (part * (before @ down.T)).sum(1)
        square += scale**2 * ((part @ gram) * part).sum(1)
        factor = magnitude[row : row + len(before)] / np.sqrt(np.maximum(square, 1e-300))
        return update.weight * (factor[:, None] * (product + scale * (part @ seen)) - product)

    return move


def _dora_columns(
    update: Dora, x: Array, edit: Edit, up: Array, down: Array, magnitude: Array
) -> Move:
    import numpy as np

    scale = update.low.scale
    square, cross = np.zeros(down.shape[1]), np.zeros_like(down)
    for row, before in _rows(edit.source):
        square += (before**2).sum(0)
        cross += up[row : row + len(before)].T @ before
    square += 2 * scale * (cross * down).sum(0) + scale**2 * ((up.T @ up @ down) * down).sum(0)
    scaled = (magnitude / np.sqrt(np.maximum(square, 1e-300)))[:, None] * x
    seen = down @ scaled

    def move(row: int, before: Array, product: Array) -> Array:
        moved = before @ scaled + scale * (up[row : row + len(before)] @ seen)
        return update.weight * (moved - product)

    return move


@_move.register(Rows)
def _(update: Rows, x: Array, edit: Edit) -> Move:
    seen = dict(zip(update.indices, update.values.read("float64") @ x, strict=True))

    def move(row: int, before: Array, product: Array) -> Array:
        moved = product * 0
        for index in seen.keys() & set(range(row, row + len(before))):
            moved[index - row] = update.weight * (seen[index] - product[index - row])
        return moved

    return move


@_move.register(Toward)
def _(update: Toward, x: Array, edit: Edit) -> Move:
    def move(row: int, before: Array, product: Array) -> Array:
        return update.weight * (update.values.rows(row, row + len(before), "float64") @ x - product)

    return move


@_move.register(Shift)
def _(update: Shift, x: Array, edit: Edit) -> Move:
    vector = update.vector.read("float64")
    return lambda row, before, product: update.scale * vector[row : row + len(before)] * x


@_move.register(Truncate)
def _(update: Truncate, x: Array, edit: Edit) -> Move:
    import numpy as np

    # The components that go are those of the smallest eigenvalues of WᵀW: W_kept = W − W·V·Vᵀ.
    whole: Any = np.concatenate([before for _, before in _rows(edit.source)])
    if whole.shape[0] >= whole.shape[1]:
        small = np.linalg.eigh(whole.T @ whole)[1][:, : update.rank]
        gone = whole @ (small @ (small.T @ x))
    else:
        small = np.linalg.eigh(whole @ whole.T)[1][:, : update.rank]
        gone = small @ (small.T @ (whole @ x))
    return lambda row, before, product: -gone[row : row + len(before)]
