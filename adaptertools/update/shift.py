"""b + scale · vector: the update of a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Shift:
    """b + scale · vector, for a bias: one column. peft/tuners/lora/layer.py, `lora_bias`."""

    vector: Matrix  # (n, 1)
    scale: float
    additive = True

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the vector."""
        return self.vector.shape

    def open(self, base: Base) -> Opened:
        """Load the vector."""
        import numpy as np

        vector = self.vector.read(base.dtype) * np.dtype(base.dtype).type(self.scale)

        def step(tile: Array, original: Array | None, row: int) -> None:
            tile += vector[row : row + len(tile)]

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name the scale."""
        return {"kind": "shift", "scale": self.scale}
