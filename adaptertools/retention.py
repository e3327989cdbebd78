"""How much of an update survives being packed, measured while the tiles go by.

With W the weight before, D the update, T = W + D what is meant, Q what is stored and Q₀ what would
be stored without the update: retention is ⟨Q − Q₀, D⟩ / ⟨D, D⟩, 1 where all of it survives in the
mean. It says nothing of the noise ‖Q − T‖, which is given beside it. It is not an accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from adaptertools.update import Array

# ‖Q(W) − W‖ / ‖W‖ of each packing from 16-bit weights: measured on trained and Gaussian ones.
TYPICAL_ERROR = {"nf4": 0.092, "fp4": 0.127, "int8": 0.008, "fp8": 0.026, "mxfp4": 0.115}


@dataclass(frozen=True, slots=True)
class Retention:
    """What became of one update in a packed tensor."""

    kept: float  # ⟨Q − Q₀, D⟩ / ⟨D, D⟩
    nearest: float | None  # the same, had it been rounded to nearest
    noise: float  # ‖Q − T‖ / ‖W‖
    in_band: float | None  # ‖(Q − T)·V‖ / ‖D‖, V the directions that the adapter reads
    moved: float  # share of codes that changed; of elements, where the packing changed
    clipped: int  # elements that were meant to lie beyond the ends of the grid
    energy: float  # ⟨D, D⟩ over what was measured, the weight of this tensor in a mean


class Compared(NamedTuple):
    """One tile, every way it is looked at: float32 (rows, columns)."""

    before: Array  # W
    meant: Array  # T
    stored: Array  # Q
    without: Array  # Q₀
    nearest: Array | None  # Q, had it been rounded to nearest
    moved: int
    clipped: int


class Survival:
    """Sums up the tiles of one tensor."""

    def __init__(self, basis: Array | None) -> None:
        """Take the directions that the adapter reads: (columns, rank), orthonormal; or None."""
        self.basis = basis
        self.weight = self.update = self.kept = self.close = self.noise = self.band = 0.0
        self.worst = self.total = 0.0
        self.same = self.moved = self.clipped = self.count = 0
        self.compared = False

    def add(self, tile: Compared) -> None:
        """Take a tile."""
        import numpy as np

        delta = (tile.meant - tile.before).astype(np.float32)
        error = (tile.stored - tile.meant).astype(np.float32)
        self.weight += _dot(tile.before, tile.before)
        self.update += _dot(delta, delta)
        self.kept += _dot(tile.stored - tile.without, delta)
        self.noise += _dot(error, error)
        if tile.nearest is not None:
            self.close += _dot(tile.nearest - tile.without, delta)
            self.compared = True
        if self.basis is not None:
            inside = error @ self.basis
            self.band += _dot(inside, inside)
        self.worst = max(self.worst, float(np.abs(error).max(initial=0.0)))
        self.total += float(np.abs(error).sum())
        self.same += int(np.count_nonzero(tile.stored == tile.without))
        self.moved += tile.moved
        self.clipped += tile.clipped
        self.count += error.size

    def result(self) -> Retention | None:
        """Sum up; None where nothing was added."""
        if not self.update:
            return None
        return Retention(
            kept=self.kept / self.update,
            nearest=self.close / self.update if self.compared else None,
            noise=(self.noise / self.weight) ** 0.5 if self.weight else 0.0,
            in_band=(self.band / self.update) ** 0.5 if self.basis is not None else None,
            moved=self.moved / max(self.count, 1), clipped=self.clipped, energy=self.update,
        )  # fmt: skip


def _dot(a: Array, b: Array) -> float:
    import numpy as np

    # Row by row in float32, and the rows in float64: BLAS sums a long vector less exactly.
    return float(np.einsum("ij,ij->i", a, b, optimize=False).sum(dtype=np.float64))
