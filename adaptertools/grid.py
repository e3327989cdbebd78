"""A packing's grid as arrays: which value is next below, which is nearest, how far to the next.

All arithmetic is float32 on values before the scale (`t = w / scale`).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from adaptertools.packing import Table

if TYPE_CHECKING:
    from adaptertools.update import Array

_BINS = 1 << 12  # at most, of a look-up by equal steps; finer grids are looked up by float bits


class _Finder:
    """Counts the edges that lie at or below each element of an array.

    A look-up gives a bin that holds one edge at most, so one comparison settles it.
    """

    def __init__(self, edges: Array) -> None:
        import numpy as np

        low, span = float(edges[0]), float(edges[-1] - edges[0])
        gap, bins = float(np.diff(edges).min()), 1
        while bins <= _BINS and gap * bins < 2 * span:  # half a bin is spare, for rounding
            bins *= 2
        self.bins = bins if bins <= _BINS else 0
        if self.bins:
            self.start, self.slope = np.float32(low), np.float32(bins / span)
            starts = low + (np.arange(bins + 1) - 0.5) * (span / bins)
        else:  # the upper 13 bits of a float32: sign, exponent and four bits of the fraction
            tops = np.arange(1 << 13, dtype=np.uint32) << 19
            tops[1 << 12 :] += (1 << 19) - 1  # below zero a bin begins at its largest bits
            starts = tops.view(np.float32)
            starts = np.where(np.isnan(starts), np.copysign(np.inf, starts), starts)
        self.before = np.searchsorted(edges, starts, "left").astype(np.uint8)
        # Beyond the last edge counts 255 + 1 = 0: only `Grid._below` has 256, and takes one off.
        ahead = np.append(edges, np.float32(np.nan)).astype(np.float32)  # ≥ NaN is never true
        self.ahead = ahead[np.searchsorted(edges, starts, "left")]

    def count(self, t: Array) -> Array:
        """Give the number of edges ≤ t, uint8, of the shape of t; t is float32 and contiguous."""
        import numpy as np

        if self.bins:
            place = np.subtract(t, self.start)
            place *= self.slope
            np.clip(place, 0, self.bins, out=place)
            bin_ = place.astype(np.int16)
        else:
            bin_ = (t.view(np.uint32) >> 19).astype(np.int16)
        found: Array = self.before.take(bin_, mode="wrap")
        found += t >= self.ahead.take(bin_, mode="wrap")
        return found


class Grid:
    """The values of a table, with what rounding to them needs."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        import numpy as np

        self.values = np.array(table.values, np.float32)
        self.codes = np.array(table.codes, np.uint8)
        self.ranks = np.array(table.ranks, np.int16)
        self.holes = bool((self.ranks < 0).any())
        gaps = np.diff(self.values.astype(np.float64))
        # Times 2¹⁶, so that a share of the gap compares with 16 random bits; none above the last.
        self.per_gap = np.append(65536 / gaps, 0.0).astype(np.float32)
        self.low, self.high = self.values[0], self.values[-1]
        self._below = _Finder(self.values)
        self._near = _Finder((self.values[1:] + self.values[:-1]) / np.float32(2))

    def nearest(self, t: Array) -> Array:
        """Give the rank of the value nearest to each element, uint8."""
        return self._near.count(t)

    def stochastic(self, t: Array, bits: Array) -> Array:
        """Round up with the probability of the way to the next value; `bits` are uint16.

        A value on the grid stays, one beyond it goes to its end. |E[q] − t| is at most 2⁻¹⁷ gaps.
        """
        import numpy as np

        t = np.clip(t, self.low, self.high)
        low = self._below.count(t)
        low -= 1
        t -= self.values.take(low, mode="wrap")
        t *= self.per_gap.take(low, mode="wrap")
        low += np.less(bits.astype(np.float32) + np.float32(0.5), t)
        return low


@cache
def grid(table: Table) -> Grid:
    """Give a table's grid, made once."""
    return Grid(table)
