"""Factors whose entries are picked from one vector of the whole model: of Uni-LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.errors import Unreadable, shown
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Picked:
    """θ[indices] · scales."""

    theta: TensorSpec
    indices: TensorSpec
    scales: TensorSpec
    shape: tuple[int, int]

    def read(self, dtype: str) -> Array:
        """Pick the numbers; raise Unreadable where there is no such one."""
        picked = tensorfile.read(self.indices).astype("int64")
        if picked.min() < 0 or picked.max() >= self.theta.shape[0]:
            raise Unreadable(
                f"{shown(self.indices.name)} points outside of {shown(self.theta.name)}. "
                "The file is damaged."
            )
        made: Array = tensorfile.read(self.theta).astype(dtype)[picked]
        made *= tensorfile.read(self.scales).astype(dtype)
        return made


@dataclass(frozen=True, slots=True)
class Dealt:
    """θ[indices] · scales, with indices that were dealt to all modules together."""

    theta: TensorSpec
    seed: int
    total: int
    before: int
    shape: tuple[int, int]

    def read(self, dtype: str) -> Array:
        """Deal the indices of the whole model, and take those of this factor."""
        import numpy as np

        indices = _dealt(self.seed, self.total, self.theta.shape[0])
        counts = np.bincount(indices, minlength=self.theta.shape[0])
        scales = 1 / np.sqrt(counts.clip(min=1))
        picked = indices[self.before : self.before + self.shape[0] * self.shape[1]]
        theta = tensorfile.read(self.theta).astype(np.float64) * scales.astype(np.float32)
        made: Array = theta[picked].reshape(self.shape).astype(dtype)
        return made


@lru_cache(maxsize=1)
def _dealt(seed: int, total: int, length: int) -> Array:
    """Give the indices of all modules, as `generate_index` does."""
    import numpy as np

    random = np.random.default_rng(seed)
    indices = np.repeat(np.arange(length), total // length)
    if more := total % length:
        indices = np.concatenate([indices, random.choice(length, size=more, replace=False)])
    random.shuffle(indices)
    return indices
