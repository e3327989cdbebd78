"""Matrices made of few numbers, rows at a time: of MiSS, C3A and FourierFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Factor
from adaptertools.methods._seeded import Drawn
from adaptertools.tensorfile import TensorSpec
from adaptertools.update.formed import Rows

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Shards:
    """Rows that repeat one column of a block: M[i, j] = block[j mod r, i mod m]."""

    block: Factor  # (r, m)
    shape: tuple[int, int]

    def form(self, dtype: str) -> Rows:
        """Load the block."""
        import numpy as np

        shards = np.ascontiguousarray(self.block.read(dtype).T)
        count = -(-self.shape[1] // shards.shape[1])

        def rows(start: int, stop: int) -> Array:
            own = shards[np.arange(start, stop) % len(shards)]
            repeated: Array = np.tile(own, count)[:, : self.shape[1]]
            return repeated

        return rows


@dataclass(frozen=True, slots=True)
class Circulant:
    """A matrix of circulant blocks."""

    kernel: TensorSpec
    shape: tuple[int, int]

    def form(self, dtype: str) -> Rows:
        """Load the kernel."""
        import numpy as np

        kernel, side = tensorfile.read(self.kernel).astype(dtype), self.kernel.shape[2]
        across = np.arange(self.kernel.shape[1])[None, :, None]

        def rows(start: int, stop: int) -> Array:
            band, inner = np.divmod(np.arange(start, stop), side)
            turn = (np.arange(side) - inner[:, None]) % side
            taken: Array = kernel[band[:, None, None], across, turn[:, None, :]]
            return taken.reshape(stop - start, -1)

        return rows


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Re(ifft2(S)) of a sparse S. In memory are the columns of S that are not zero, complex."""

    places: Drawn
    values: tensorfile.TensorSpec
    shape: tuple[int, int]

    def form(self, dtype: str) -> Rows:
        """Transform the columns; rows are transformed as they are asked for. All in float64."""
        import numpy as np

        at, columns = self.places.read(self.values.shape[0])
        filled, where = np.unique(columns, return_inverse=True)
        dense = np.zeros((self.shape[0], len(filled)))
        dense[at, where] = tensorfile.read(self.values).astype(np.float64)
        half = np.fft.ifft(dense, axis=0)

        def rows(start: int, stop: int) -> Array:
            spread = np.zeros((stop - start, self.shape[1]), half.dtype)
            spread[:, filled] = half[start:stop]
            whole: Array = np.fft.ifft(spread, axis=1).real.astype(dtype)
            return whole

        return rows
