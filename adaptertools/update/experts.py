"""W + scale · B·A for every expert of a fused weight at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update import Base, Matrix, Opened, scratch
from adaptertools.update.lowrank import LowRank, Product
from adaptertools.update.matrices import oriented
from adaptertools.update.picked import picked

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Experts:
    """W_e + scale · B_e·A_e for every expert e; W is (experts · rows, columns), e slowest.

    `down` is (experts · rank, in), the expert slowest; `up` is (out, rank · experts). In its
    columns the expert is fastest where `rank_major` (PEFT; `lora_B_layout` in the config), and
    slowest where not (Unsloth before September 2026). `turned`: the weight stores (in, out) of
    each expert. peft/tuners/lora/layer.py, `ParamWrapper`.
    """

    up: Matrix
    down: Matrix
    experts: int
    rank: int
    scale: float
    rank_major: bool
    turned: bool
    additive = True

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the whole weight."""
        rows, columns = self.up.shape[0], self.down.shape[1]
        rows, columns = (columns, rows) if self.turned else (rows, columns)
        return self.experts * rows, columns

    def expert(self, e: int) -> LowRank:
        """Give what one expert gets; its factors are read when they are needed."""
        own = range(e * self.rank, (e + 1) * self.rank)
        columns = range(e, self.rank * self.experts, self.experts) if self.rank_major else own
        up, down = picked(self.up, None, columns), picked(self.down, own)
        return LowRank(*oriented(up, down, self.turned), self.scale)

    def open(self, base: Base) -> Opened:
        """Load all factors; a step is one product for each expert that the tile holds rows of."""
        products, buffer = self._products(base.dtype), scratch()
        height = self.shape[0] // max(self.experts, 1)

        def step(tile: Array, original: Array | None, row: int) -> None:
            moved, at = buffer(tile), 0
            while at < len(tile):
                e, own = divmod(row + at, height)
                stop = min(at + height - own, len(tile))
                products[e].fill(moved[at:stop], own)
                at = stop
            tile += moved

        return Opened(step, sum(product.norm() ** 2 for product in products) ** 0.5)

    def _products(self, dtype: str) -> list[Product]:
        import numpy as np

        up, down = self.up.read(dtype), self.down.read(dtype)
        up *= np.dtype(dtype).type(self.scale)
        if self.rank_major:
            lefts = up.reshape(len(up), self.rank, self.experts).transpose(2, 0, 1)
        else:
            lefts = up.reshape(len(up), self.experts, self.rank).transpose(1, 0, 2)
        rights = down.reshape(self.experts, self.rank, -1)
        if self.turned:
            lefts, rights = rights.transpose(0, 2, 1), lefts.transpose(0, 2, 1)
        whole = np.ascontiguousarray
        return [Product(whole(a), whole(b)) for a, b in zip(lefts, rights, strict=True)]

    def describe(self) -> Mapping[str, object]:
        """Name experts, rank and scale, and how the factors are laid out."""
        order = "rank" if self.rank_major else "expert"
        return {
            "kind": "experts", "experts": self.experts, "rank": self.rank, "scale": self.scale,
            "slowest": order, "turned": self.turned,
        }  # fmt: skip
