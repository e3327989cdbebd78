"""torch's random numbers without torch: the same, bit by bit, or to the last bit of a float32."""

import numpy as np
import pytest
import torch

from adaptertools.methods import _seeded

SEEDS = (0, 777, 2**31, 2**32 + 5, 2**63 - 1)
SIZES = ((1, 1), (2, 1), (2, 2), (10, 3), (10, 9), (10, 10), (4096, 1), (60_000, 2_592))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("size", "count"), SIZES)
def test_permutation(seed: int, size: int, count: int) -> None:
    wanted = torch.randperm(size, generator=generator(seed))[:count].numpy()
    assert np.array_equal(_seeded.permutation(seed, size, count), wanted)


def test_permutation_of_the_whole() -> None:
    found = _seeded.permutation(5, 5_000, 5_000)
    assert np.array_equal(found, torch.randperm(5_000, generator=generator(5)).numpy())


def test_large_permutation() -> None:
    """From 2³² / 20 on torch shuffles otherwise; these are the first of torch.randperm(n)."""
    size, count = 2**32 // 20 + 7, 5
    drawn = _seeded.permutation(3, size, count)
    assert drawn.tolist() == [50815193, 116864026, 18612126, 8421410, 157113196]


@pytest.mark.parametrize("count", [1, 2, 5, 15, 16, 17, 36, 256, 1000, 4097])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_normal(seed: int, count: int) -> None:
    wanted = torch.normal(0.0, 0.7, size=(count,), generator=generator(seed)).double().numpy()
    assert np.abs(_seeded.normal(seed, count, 0.7) - wanted).max() < 2e-6
