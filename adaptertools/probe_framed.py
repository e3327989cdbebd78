"""What W'·x should be for single entries, for squares, and in another frame; in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.probe_rows import base_rows
from adaptertools.probe_values import Exact, Value, after
from adaptertools.update.reframed import Reframed
from adaptertools.update.scatter import Scatter
from adaptertools.update.squares import Squares

if TYPE_CHECKING:
    from adaptertools.update import Array


@after.register(Scatter)
def _(update: Scatter, inner: Value, edit: Edit) -> Value:
    import numpy as np

    rows, columns, values = update.matrix.entries(Exact(edit))

    def value(row: int, before: Array, x: Array) -> Array:
        new = inner(row, before, x).copy()
        here = (rows >= row) & (rows < row + len(before))
        np.add.at(new, rows[here] - row, update.scale * values[here, None] * x[columns[here]])
        return new

    return value


@after.register(Squares)
def _(update: Squares, inner: Value, edit: Edit) -> Value:
    import numpy as np

    blocks = update.blocks.read("float64").reshape(-1, update.r, update.r)

    def value(row: int, before: Array, x: Array) -> Array:
        new, parts = inner(row, before, x).copy(), x.reshape(-1, update.r, x.shape[1])
        bands = np.arange(row, row + len(before)) // update.r
        for band in np.unique(bands):
            # (W·B + B)·x, square by square, is W·(B·x) and the sum of all B·x.
            turned = np.einsum("ij,njk->nik", blocks[band], parts)
            moved = inner(row, before, turned.reshape(x.shape))
            own = np.flatnonzero(bands == band)
            at = own + row - band * update.r
            new[own] += update.scale * (moved[own] + turned.sum(axis=0)[at])
        return new

    return value


@after.register(Reframed)
def _(update: Reframed, inner: Value, edit: Edit) -> Value:
    import numpy as np

    v, between = update.frame.vectors(), update.frame.between()
    whole = np.concatenate([rows for _, rows in base_rows(edit)])
    weight = whole.T if update.transposed else whole
    framed = np.linalg.lstsq(v, weight.T, rcond=1e-6)[0].T  # W·V⁻ᵀ
    lengths = np.linalg.norm(framed, axis=0)
    unit = framed / np.where(lengths > 1e-12, lengths, np.inf)

    def value(row: int, before: Array, x: Array) -> Array:
        if update.transposed:
            new = (v @ (between.T @ (unit.T @ x)))[row : row + len(before)]
        else:
            new = unit[row : row + len(before)] @ (between @ (v.T @ x))
        moved: Array = inner(row, before, x) + update.weight * (new - before @ x)
        return moved

    return value
