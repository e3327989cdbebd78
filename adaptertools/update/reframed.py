"""W·V⁻ᵀ·diag(1/λ₀)·M·Vᵀ: a weight in another frame, with its lengths exchanged for M."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adaptertools.update import Base, Opened

if TYPE_CHECKING:
    from adaptertools.update import Array

_LEAST = 1e-12  # a shorter column is no direction, and PEFT makes it zero
_CUT = 1e-6  # singular values below this share are none, where V has no inverse


class Frame(Protocol):
    """V and M, square."""

    def vectors(self) -> Array:
        """Give V in float64."""
        ...

    def between(self) -> Array:
        """Give M in float64."""
        ...


@dataclass(frozen=True, slots=True)
class Reframed:
    """W + weight · (U·M·Vᵀ − W), U·diag(λ₀) = W₀·V⁻ᵀ with λ₀ its columns' lengths. FRoD.

    Takes one pass over the weight first; with a base that stores (in, out), the whole of it is
    held in memory. W₀ is the weight before any update.
    """

    frame: Frame
    shape: tuple[int, int]
    transposed: bool
    weight: float = 1.0
    additive = False

    def open(self, base: Base) -> Opened:
        """Find λ₀, and the matrix that turns rows of W₀ into rows of their change."""
        import numpy as np

        if self.transposed:
            whole = np.concatenate([tile.astype(np.float64) for _, tile in base.tiles()])
            moved = (self.turn([whole.T]).T @ whole).astype(base.dtype)

            def step(tile: Array, original: Array | None, row: int) -> None:
                tile += moved[row : row + len(tile)]

            return Opened(step)
        turn = self.turn(tile for _, tile in base.tiles()).astype(base.dtype)

        def by_rows(tile: Array, original: Array | None, row: int) -> None:
            tile += (tile if original is None else original) @ turn

        return Opened(by_rows)

    def turn(self, tiles: Iterable[Array]) -> Array:
        """Give weight · (V⁻ᵀ · diag(1/λ₀) · M · Vᵀ − 1) in float64, from rows of W₀ (…, in)."""
        import numpy as np

        v = self.frame.vectors()
        try:
            inverse = np.linalg.inv(v).T
        except np.linalg.LinAlgError:
            inverse = np.linalg.pinv(v, rcond=_CUT).T
        squares = sum(((tile.astype(np.float64) @ inverse) ** 2).sum(axis=0) for tile in tiles)
        lengths = np.sqrt(squares)
        shares = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > _LEAST)
        turned: Array = (inverse * shares) @ self.frame.between() @ v.T - np.eye(len(v))
        return turned * self.weight

    def describe(self) -> Mapping[str, object]:
        """Name the weight."""
        return {"kind": "reframed", "weight": self.weight}
