"""W + weight · U·C·Vᵀ, with U and V the largest singular vectors of W, signs and all.

A door: the one update that imports torch. A singular vector's sign is nowhere defined; where it
matters, it is what torch's LAPACK gives, which PEFT takes as well. numpy's gives others.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from adaptertools.errors import Unsupported
from adaptertools.update import Base, Opened
from adaptertools.update.lowrank import Product

if TYPE_CHECKING:
    from adaptertools.update import Array


_drawing = threading.Lock()  # torch has one seed for all threads, and svd_lowrank takes no other


class Core(Protocol):
    """What stands between the singular vectors."""

    @property
    def rank(self) -> int:
        """How many vectors it takes."""
        ...

    def between(self, values: Array) -> Array:
        """Give C in float64 from the singular values."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """W + weight · U·C·Vᵀ. The factorisation, float32 as PEFT's, holds the whole weight."""

    core: Core
    shape: tuple[int, int]
    seed: int | None  # of a randomised factorisation; None for a full one
    turns: int = 0  # of the randomised one's power iteration
    weight: float = 1.0
    additive = False

    def open(self, base: Base) -> Opened:
        """Factorise the base once; a step is one product and one sum."""
        import numpy as np

        whole = np.concatenate([tile.astype(np.float32) for _, tile in base.tiles()])
        if not np.isfinite(whole).all():
            return Opened(lambda tile, original, row: tile.fill(np.nan))
        left, values, right = self.factors(whole)
        up = left @ self.core.between(values) * self.weight
        product = Product(up.astype(base.dtype), right.astype(base.dtype))

        def step(tile: Array, original: Array | None, row: int) -> None:
            tile += product.fill(np.empty_like(tile), row)

        return Opened(step, product.norm())

    def factors(self, whole: Array) -> tuple[Array, Array, Array]:
        """Give U, the singular values and Vᵀ, float64 from what float32 gave."""
        import torch

        weight, rank = torch.from_numpy(whole), self.core.rank
        if self.seed is None:
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
        else:
            with _drawing, torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                left, values, turned = torch.svd_lowrank(weight, q=rank, niter=self.turns)
            right = turned.T
        parts = left[:, :rank], values[:rank], right[:rank]
        first, second, third = (part.double().numpy() for part in parts)
        return first, second, third

    def describe(self) -> Mapping[str, object]:
        """Name how many vectors."""
        return {"kind": "principal", "rank": self.core.rank, "weight": self.weight}


def check_torch(method: str) -> None:
    """Refuse without torch, before anything is written."""
    if find_spec("torch") is None:
        raise Unsupported(
            f"{method} works between singular vectors of the base, whose signs are as torch's "
            "LAPACK gives them. Install the extra: pip install 'adaptertools[models]'."
        )
