"""W + scale · (W·B + B) in every square of a weight, one B for each band of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Squares:
    """W + scale · (W·B + B), per r × r square. peft/tuners/miss/layer.py, `bat`."""

    blocks: Matrix  # (bands, r · r): B for each band of r rows
    r: int
    shape: tuple[int, int]
    scale: float
    additive = False

    def open(self, base: Base) -> Opened:
        """Load the squares; a step takes the bands that its rows lie in."""
        r, scale = self.r, self.scale
        blocks = self.blocks.read(base.dtype).reshape(-1, r, r)

        def step(tile: Array, original: Array | None, row: int) -> None:
            at, last = row, row + len(tile)
            while at < last:
                band, inner = divmod(at, r)
                stop = min((band + 1) * r, last)
                rows = tile[at - row : stop - row].reshape(stop - at, -1, r)
                moved = rows @ blocks[band]
                moved += blocks[band][inner : inner + stop - at, None]
                moved *= scale
                rows += moved
                at = stop

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name the side of the squares."""
        return {"kind": "squares", "rank": self.r, "scale": self.scale}
