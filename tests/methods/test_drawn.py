"""Projections drawn again from the seed are what torch and PEFT draw, bit for bit."""

import numpy as np
import pytest
import torch
from peft.tuners.vera.model import _kaiming_init

from adaptertools.methods import _bases, _drawn

SEEDS = [0, 1, 777, 2**31, 2**32 + 5, 2**63 - 1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 15, 16, 1000, (1 << 20) + 3])
def test_numbers_are_torchs(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.rand(count, generator=generator)
    after = torch.empty(7).uniform_(-0.3, 0.3, generator=generator)
    assert np.array_equal(_drawn.uniform(seed, 0, count), wanted.numpy())
    assert np.array_equal(_drawn.uniform(seed, count, 7, 0.3), after.numpy())


@pytest.mark.parametrize("shape", [(256, 768), (4, 11008), (3, 7), (1, 1)])
def test_projections_are_veras(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    first = _kaiming_init(shape, generator)
    second = torch.nn.init.kaiming_uniform_(torch.empty(shape[::-1]), generator=generator)
    rows, columns = shape
    ours = _drawn.Drawn(shape, 3, 0, _drawn.kaiming(columns)).read("float32")
    then = _drawn.Drawn((columns, rows), 3, rows * columns, _drawn.kaiming(rows)).read("float32")
    assert np.array_equal(ours, first.numpy())
    assert np.array_equal(then, second.numpy())


@pytest.mark.parametrize("sparsity", [3.0, 32**0.5, 768**0.5])
@pytest.mark.parametrize("sizes", [(4, 48, 32), (5, 33, 31), (32, 1024, 768)])
def test_sparse_bases_are_those_of_randlora(sizes: tuple[int, int, int], sparsity: float) -> None:
    rank, long, short = sizes
    generator, bases = torch.Generator().manual_seed(9), -(-short // rank)
    drawn = (
        torch.rand((rank, 1, short), generator=generator),
        torch.rand((long, bases, rank), generator=generator),
    )
    for ours, uniform in zip(_bases.drawn(9, rank, long, short, sparsity), drawn, strict=True):
        edge = 1 / (2 * sparsity)
        signs = (uniform > 1 - edge).float() - (uniform < edge).float()
        assert np.array_equal(ours, (signs / signs.std()).numpy())
