"""Entries of a weight here and there: listed, drawn from a seed, or chosen by magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.methods._seeded import Drawn
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Base
from adaptertools.update.scatter import Entries

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Listed:
    """Entries with their rows and columns beside them."""

    values: TensorSpec
    indices: TensorSpec
    shape: tuple[int, int]

    def entries(self, base: Base) -> Entries:
        """Load them; raise Unreadable where one lies outside."""
        import numpy as np

        rows, columns = tensorfile.read(self.indices).astype(np.int64)
        if min(rows.min(), columns.min()) < 0 or (
            rows.max() >= self.shape[0] or columns.max() >= self.shape[1]
        ):
            raise Unreadable(
                f"{shown(self.indices.name)} points outside of the {self.shape[0]}×{self.shape[1]} "
                "weight. The file is damaged, or was made for another base."
            )
        return Entries(rows, columns, tensorfile.read(self.values).astype(base.dtype))


@dataclass(frozen=True, slots=True)
class Scattered:
    """The entries themselves, without a transform."""

    places: Drawn
    values: TensorSpec
    shape: tuple[int, int]

    def entries(self, base: Base) -> Entries:
        """Load the values, and draw their places."""
        values = tensorfile.read(self.values).astype(base.dtype)
        return Entries(*self.places.read(len(values)), values)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Entries at places of the flattened weight; the weight's own order gives those not saved."""

    values: TensorSpec
    indices: TensorSpec | None
    shape: tuple[int, int]
    largest: bool

    def entries(self, base: Base) -> Entries:
        """Load them; without saved places, look at the whole weight, which is held in memory."""
        import numpy as np

        values = tensorfile.read(self.values).astype(base.dtype)
        if self.indices is None:
            places = self._ordered(base, len(values))
        else:
            places = tensorfile.read(self.indices).astype(np.int64)
            if places.min() < 0 or places.max() >= self.shape[0] * self.shape[1]:
                raise Unreadable(
                    f"{shown(self.indices.name)} points outside of the "
                    f"{self.shape[0]}×{self.shape[1]} weight. The file is damaged, or was made for "
                    "another base."
                )
        return Entries(*np.divmod(places, self.shape[1]), values)

    def _ordered(self, base: Base, count: int) -> Array:
        """Give the places of the largest or smallest magnitudes, in order."""
        import numpy as np

        sizes = np.concatenate([np.abs(tile).reshape(-1) for _, tile in base.tiles()])
        if self.largest:
            np.negative(sizes, out=sizes)
        more = min(count, sizes.size - 1)
        places = np.argpartition(sizes, more)[: more + 1]
        places = places[np.argsort(sizes[places])]
        if (np.diff(sizes[places]) == 0).any():
            raise Unsupported(
                f"{shown(self.values.name)} came without its indices, and entries of the weight "
                "are equal in magnitude: which of them it means is not in the file. Save the "
                "adapter again with save_precomputed_indices=True."
            )
        return places[:count]
