"""What PSOFT does between the singular vectors of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Turn:
    """C = S·(R − 1), or √S·(R − 1)·√S."""

    rank: int
    weight: TensorSpec
    before: TensorSpec | None
    after: TensorSpec | None
    terms: int  # of a Neumann series; 0 for the exact inverse
    limit: float | None  # of K's norm, in a series
    rooted: bool

    def between(self, values: Array) -> Array:
        """Give C in float64."""
        import numpy as np

        moved = self._turn() - np.eye(self.rank)
        if self.rooted:
            made: Array = np.sqrt(values)[:, None] * moved * np.sqrt(values)
            return made
        return values[:, None] * moved

    def _turn(self) -> Array:
        """Give R."""
        import numpy as np

        turn = tensorfile.read(self.weight).astype(np.float64)
        if turn.ndim == 1:
            skew = np.zeros((self.rank, self.rank))
            skew[np.triu_indices(self.rank, 1)] = turn
            turn = self._rotation(skew - skew.T)
        if self.after is not None:
            turn = tensorfile.read(self.after).astype(np.float64)[:, None] * turn
        if self.before is not None:
            turn = turn * tensorfile.read(self.before).astype(np.float64)
        return turn

    def _rotation(self, skew: Array) -> Array:
        """Give (1 + K)(1 − K)⁻¹, or a series 1 + 2K + 2K² + … whose last power counts once."""
        import numpy as np

        one = np.eye(self.rank)
        if not self.terms:
            exact: Array = np.linalg.solve((one - skew).T, (one + skew).T).T
            return exact
        norm = float(np.linalg.norm(skew))
        if self.limit is not None and norm > self.limit:
            skew = skew * (self.limit / (norm + 1e-12))
        # As in PEFT: two terms are 1 + 2K, and three are what four are, 1 + 2K + 2K² + K³.
        last = max(self.terms - 1, 3) if self.terms > 2 else self.terms - 1
        made, power = one.copy(), one
        for at in range(1, last + 1):
            power = power @ skew
            made += power * (1 if at == last and self.terms > 2 else 2)
        return made
