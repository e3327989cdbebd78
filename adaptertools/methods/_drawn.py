"""Projections that were not saved: torch's uniform CPU numbers, drawn again from the saved seed.

A float32 is the low 24 bits of one word of MT19937, over 2²⁴ (ATen/core/TransformationHelper.h,
`uniform_real`); torch seeds that generator as numpy's RandomState does. The tests hold this against
torch and against what PEFT draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.adapter import Factor, Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Matrix
from adaptertools.update.matrices import Cut

if TYPE_CHECKING:
    from adaptertools.update import Array


def uniform(seed: int, skip: int, count: int, bound: float | None = None) -> Array:
    """Give float32 numbers of torch's generator, after `skip` others: in [0, 1), or in bounds."""
    import numpy as np

    words = np.random.RandomState(seed & 0xFFFFFFFF)
    step = 1 << 20
    for start in range(0, skip, step):
        words.randint(0, 2**32, min(step, skip - start), dtype="uint32")
    found = words.randint(0, 2**32, count, dtype="uint32") & np.uint32(2**24 - 1)
    if bound is None:
        return found.astype(np.float32) / np.float32(2**24)
    limit = float(np.float32(bound))
    scaled: Array = (found * 2.0**-24 * (2 * limit) - limit).astype(np.float32)
    return scaled


def kaiming(fan: int) -> float:
    """Give the bound of torch.nn.init.kaiming_uniform_, by the same operations."""
    return math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(fan))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A matrix of `uniform_(-bound, bound)`, after `skip` other numbers of the same generator."""

    shape: tuple[int, int]
    seed: int
    skip: int
    bound: float

    def read(self, dtype: str) -> Array:
        """Draw it, float32 as PEFT does, and widen it."""
        rows, columns = self.shape
        drawn: Array = uniform(self.seed, self.skip, rows * columns, self.bound)
        return drawn.reshape(self.shape).astype(dtype)


def saved(site: Site, role: str) -> TensorSpec | None:
    """Give a shared tensor; None where it was left out on purpose, to be drawn from the seed.

    Raises Unreadable where it is gone, Unsupported where it holds no floats.
    """
    spec = site.shared.get(role)
    if spec is None and site.config.get("save_projection", True):
        raise Unreadable(
            f"The adapter lacks base_model.{role}, which all its modules share, and its config "
            "says that it was saved (save_projection). Save the adapter again."
        )
    if spec is not None and spec.dtype not in FLOATS:
        raise Unsupported(f"{shown(spec.name)} is stored as {spec.dtype}; a float was expected.")
    return spec


def seed(site: Site, role: str) -> int:
    """Give the seed of projections that were not saved; raise Unreadable where there is none."""
    key = site.config.get("projection_prng_key")
    if type(key) is not int:
        raise Unreadable(
            f"The adapter lacks base_model.{role}, which all its modules share, and its config has "
            "no projection_prng_key to draw it from. Save it with save_projection."
        )
    return key


def cut(site: Site, spec: TensorSpec, rows: int, columns: int) -> Matrix:
    """Give the first rows and columns of a shared matrix; raise Mismatch where it is smaller."""
    if len(spec.shape) != 2 or spec.rows < rows or spec.columns < columns:
        raise Mismatch(
            f"{shown(spec.name)} is {list(spec.shape)}, and {shown(site.entry.target)} needs "
            f"{rows}×{columns} of it. Pass the base that it was trained on as --base."
        )
    return Cut(Factor(spec), (rows, columns))


def largest(site: Site) -> tuple[int, int]:
    """Give the largest out and the largest in of all modules that the adapter changes."""
    return max(s[0] for s in site.peers.values()), max(s[1] for s in site.peers.values())
