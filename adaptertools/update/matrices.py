"""Factors made of other factors: turned, cut, scaled; all are read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Matrix

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Turned:
    """Mᵀ."""

    matrix: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape[::-1]

    def read(self, dtype: str) -> Array:
        """Load it in this dtype."""
        import numpy as np

        return np.ascontiguousarray(self.matrix.read(dtype).T)


@dataclass(frozen=True, slots=True)
class Cut:
    """The first rows and columns of M."""

    matrix: Matrix
    shape: tuple[int, int]

    def read(self, dtype: str) -> Array:
        """Load it in this dtype."""
        import numpy as np

        rows, columns = self.shape
        return np.ascontiguousarray(self.matrix.read(dtype)[:rows, :columns])


@dataclass(frozen=True, slots=True)
class Scaled:
    """diag(v) · M: row i times the i-th of v's first elements."""

    matrix: Matrix
    vector: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape

    def read(self, dtype: str) -> Array:
        """Load it in this dtype."""
        found = self.matrix.read(dtype)
        found *= self.vector.read(dtype).reshape(-1, 1)[: len(found)]
        return found


def oriented(up: Matrix, down: Matrix, transposed: bool) -> tuple[Matrix, Matrix]:
    """Give up (out, r) and down (r, in), or their transposes in reverse for a base (in, out)."""
    return (Turned(down), Turned(up)) if transposed else (up, down)
