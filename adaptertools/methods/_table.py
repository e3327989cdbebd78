"""A stored tensor as a table of another shape, its numbers repeated where there are too few."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptertools.methods._parts import Made
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array


def table(spec: TensorSpec, rows: int, columns: int) -> Made:
    """Give (rows, columns) of a tensor: its own rows, each number repeated along the columns.

    A single number stands for all.
    """
    return Made((rows, columns), _repeated, (spec,), (rows, columns))


def ones(columns: int) -> Made:
    """Give a row of ones."""
    return Made((1, columns), _ones, (), (columns,))


def _repeated(values: Array, rows: int, columns: int) -> Array:
    import numpy as np

    if values.size == 1:
        return np.full((rows, columns), values.reshape(()))
    values = values.reshape(rows, -1)
    return np.repeat(values, columns // values.shape[1], axis=1)


def _ones(columns: int) -> Array:
    import numpy as np

    return np.ones((1, columns))
