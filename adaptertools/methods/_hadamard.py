"""Two low-rank products multiplied entry by entry, by rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.methods._lycoris import tucker
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Hadamard:
    """(A₁·B₁)∘(A₂·B₂): the factors are loaded, the rows are made by range."""

    shape: tuple[int, int]
    pairs: tuple[tuple[TensorSpec, ...], ...]  # (w_a, w_b), or (w_a, w_b, t), twice

    def form(self, dtype: str) -> Callable[[int, int], Array]:
        """Load the factors, and give the function that makes rows."""
        (up, down), (more, other) = (self._pair(pair, dtype) for pair in self.pairs)

        def rows(start: int, stop: int) -> Array:
            made: Array = up[start:stop] @ down
            made *= more[start:stop] @ other
            return made

        return rows

    def _pair(self, specs: tuple[TensorSpec, ...], dtype: str) -> tuple[Array, Array]:
        a, b, *core = (tensorfile.read(spec).astype(dtype) for spec in specs)
        return (a.T, tucker(core[0], b)) if core else (a, b)
