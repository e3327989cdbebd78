"""W without its smallest singular components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Opened

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Truncate:
    """W without its `rank` smallest singular components. KaSA, arXiv:2412.06071; OSF.

    Rounded to the stored dtype for KaSA, because that is the base that PEFT trained on
    (peft/tuners/lora/variants.py, `_truncate_base_weight`; PEFT's SVD is float32, ours float64).
    Needs the whole matrix in memory.
    """

    rank: int
    weight: float = 1.0  # how much of them goes
    rounded: bool = True
    additive = False

    @property
    def shape(self) -> None:
        """It fits any matrix."""
        return

    def open(self, base: Base) -> Opened:
        """Factorise the base once."""
        import numpy as np

        whole = np.concatenate([tile.astype(np.float64) for _, tile in base.tiles()])
        if not np.isfinite(whole).all():
            whole[:] = np.nan  # no singular values; whoever stores the result minds
            return Opened(lambda tile, original, row: tile.fill(np.nan))
        left, values, right = np.linalg.svd(whole, full_matrices=False)
        keep = len(values) - self.rank
        values[keep:] *= 1 - self.weight
        kept = (left * values) @ right
        kept = (base.stored(kept) if self.rounded else kept).astype(base.dtype)

        def step(tile: Array, original: Array | None, row: int) -> None:
            if original is not None:
                tile -= original
                tile += kept[row : row + len(tile)]
            else:
                tile[:] = kept[row : row + len(tile)]

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        """Name how many components go."""
        return {"kind": "truncate", "rank": self.rank}
