"""The inverse wavelet transform of a sparse matrix, and the filters it is made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.methods._seeded import Drawn
from adaptertools.tensorfile import TensorSpec
from adaptertools.update.formed import Rows

if TYPE_CHECKING:
    from adaptertools.update import Array


_AT_ONCE = 1 << 20  # products of an entry with its filters


@cache
def families() -> dict[str, list[float]]:
    """Read the low-pass filters; published tables (Daubechies 1992), as PEFT has them."""
    text = (Path(__file__).parent / "wavelets.json").read_text("utf-8")
    found: dict[str, list[float]] = json.loads(text)
    return found


@dataclass(frozen=True, slots=True)
class Wavelets:
    """The inverse wavelet transform of a sparse matrix."""

    places: Drawn
    values: TensorSpec
    shape: tuple[int, int]
    low: tuple[float, ...]

    def form(self, dtype: str) -> Rows:
        """Load the entries, sorted by the first row that they reach."""
        import numpy as np

        low = np.array(self.low)
        filters = np.stack([low, low[::-1] * (-1.0) ** np.arange(len(low))]).astype(dtype)
        values = tensorfile.read(self.values).astype(dtype)
        (top, lower), (left, right) = map(self._halved, self.places.read(len(values)), self.shape)
        order = np.argsort(top, kind="stable")
        top, left, values = top[order], left[order], values[order]
        # Not a slip: PEFT's right quarters are high-pass along the rows, the lower ones across.
        down, across = right[order], lower[order]
        length, step = len(low), max(_AT_ONCE // len(low) ** 2, 1)
        reach = np.arange(length)

        def rows(start: int, stop: int) -> Array:
            found = np.zeros((stop - start, self.shape[1]), dtype)
            begin, end = np.searchsorted(top, (start - length + 1, stop))
            for at in range(int(begin), int(end), step):
                some = slice(at, min(at + step, int(end)))
                i = (top[some, None] + reach - start)[:, :, None]
                j = (left[some, None] + reach)[:, None, :]
                i, j = np.broadcast_arrays(i, j)
                products = values[some, None] * filters[down[some]]
                products = products[:, :, None] * filters[across[some]][:, None, :]
                inside = (i >= 0) & (i < len(found)) & (j >= 0) & (j < self.shape[1])
                np.add.at(found, (i[inside], j[inside]), products[inside])
            return found

        return rows

    def _halved(self, places: Array, size: int) -> tuple[Array, Array]:
        """Give the first row (or column) that each entry reaches, and whether it is a detail."""
        more = len(self.low) - 2
        padded = size + more + (size + more) % 2
        places = places + (padded - size) // 2
        detail = places >= padded // 2
        return 2 * (places - detail * (padded // 2)) - more, detail.astype(int)
