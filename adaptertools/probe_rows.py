"""Rows of a weight in float64, read apart from the merge: plainly from the file, or decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.jobs import Edit
from adaptertools.tensorfile import TensorSpec, dtype_of
from adaptertools.unpacked import decoded, height
from adaptertools.update import together

if TYPE_CHECKING:
    from adaptertools.update import Array

ROWS = 1 << 20  # elements per reading


def part_of(spec: TensorSpec, row: int, count: int) -> Array:
    """Read some rows in float64."""
    import numpy as np

    dtype, columns = dtype_of(spec.dtype), max(spec.columns, 1)
    offset = spec.start + row * columns * dtype.itemsize
    flat = np.fromfile(spec.file, dtype, count * columns, offset=offset)
    return flat.reshape(-1, columns).astype(np.float64)


def rows_of(spec: TensorSpec, multiple: int = 1) -> Iterator[tuple[int, Array]]:
    """Give the rows of a plain tensor in float64, a multiple of some number at a time."""
    step = height(multiple, spec.columns, ROWS)
    for row in range(0, spec.rows, step):
        yield row, part_of(spec, row, min(step, spec.rows - row))


@dataclass(frozen=True, slots=True)
class Part:
    """A block of an edit's weight, for what needs only that."""

    whole: Edit | Part
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def source(self) -> TensorSpec:
        """The weight's spec, of the block's shape; its bytes lie apart."""
        (first, last), (left, right) = self.rows, self.columns
        return self.whole.source._replace(shape=(last - first, right - left))


def base_rows(edit: Edit | Part) -> Iterator[tuple[int, Array]]:
    """Give the rows of an edit's source in float64, decoded where it is packed."""
    if isinstance(edit, Part):
        first, last = edit.rows
        for row, rows in base_rows(edit.whole):
            if len(own := rows[max(first - row, 0) : max(last - row, 0)]):
                yield max(row - first, 0), own[:, slice(*edit.columns)]
    elif edit.packed is None:
        yield from rows_of(edit.source, together(edit.updates))
    else:
        for row, rows in decoded(edit.packed, together(edit.updates)):
            yield row, rows.astype("float64")
