"""A weight and its factors in memory, and how tiles of rows go through updates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptertools.update import Update, change


def noise(seed: int, *shape: int) -> torch.Tensor:
    """Seeded normal values in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Held:
    """A factor in memory; every reading is a new array, as from a file."""

    values: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    def read(self, dtype: str) -> Any:
        return self.values.numpy().astype(dtype, copy=True)

    def rows(self, start: int, stop: int, dtype: str) -> Any:
        return self.values[start:stop].numpy().astype(dtype, copy=True)


@dataclass(frozen=True)
class Weight:
    """The base that an update sees; one buffer serves all tiles, as in the merge."""

    values: torch.Tensor
    step: int
    dtype: str = "float64"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    def tiles(self) -> Iterator[tuple[int, Any]]:
        buffer = np.empty((self.step, self.shape[1]), self.dtype)
        for row in range(0, len(self.values), self.step):
            part = self.values[row : row + self.step].numpy()
            buffer[: len(part)] = part
            yield row, buffer[: len(part)]
        buffer[:] = np.nan

    def stored(self, values: Any) -> Any:
        return values


def updated(
    weight: torch.Tensor, updates: Sequence[Update], step: int = 1000, dtype: str = "float64"
) -> torch.Tensor:
    """Send a weight through updates, `step` rows at a time."""
    base = Weight(weight, step, dtype)
    opened = [update.open(base) for update in updates]
    result = weight.numpy().astype(dtype, copy=True)
    for row in range(0, len(result), step):
        tile = result[row : row + step]
        original = tile.copy() if len(updates) > 1 else None
        change(opened, tile, original, row)
    return torch.from_numpy(result)


def close(ours: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-12) -> None:
    """Fail unless all elements agree to `tolerance` of the largest."""
    torch.testing.assert_close(
        ours.double(), wanted, rtol=0, atol=tolerance * max(wanted.abs().max().item(), 1.0)
    )


sizes = st.integers(1, 40)
ranks = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)
factors = st.sampled_from([1.0, 0.0, -0.5, 0.3, 2.0])


def over(
    **strategies: st.SearchStrategy[Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test over the same drawn shapes each time; first calls into BLAS may be slow."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        steady = settings(deadline=None, derandomize=True, database=None, max_examples=60)
        return steady(given(**strategies)(test))

    return decorate
