"""W + s·B·A against the dense product, and the algebra that it has to keep."""

import math

import torch

from adaptertools.update.lowrank import LowRank, Product
from tests.update.weights import Held, close, factors, noise, over, ranks, seeds, sizes, updated


def low_rank(up: torch.Tensor, down: torch.Tensor, scale: float = 1.0) -> LowRank:
    return LowRank(Held(up), Held(down), scale)


@over(rows=sizes, columns=sizes, rank=ranks, step=sizes, scale=factors, seed=seeds)
def test_any_tiling_gives_the_dense_sum(
    rows: int, columns: int, rank: int, step: int, scale: float, seed: int
) -> None:
    weight, up, down = (
        noise(seed, rows, columns),
        noise(seed + 1, rows, rank),
        noise(2, rank, columns),
    )
    update = low_rank(up, down, scale)
    wanted = weight + scale * up @ down
    close(updated(weight, [update], step), wanted)
    close(updated(weight, [update]), wanted)


@over(rows=sizes, columns=sizes, rank=ranks, seed=seeds)
def test_the_change_is_linear_in_each_factor(rows: int, columns: int, rank: int, seed: int) -> None:
    weight, up, other = noise(seed, rows, columns), noise(1, rows, rank), noise(2, rows, rank)
    down = noise(3, rank, columns)
    both = updated(weight, [low_rank(up + other, down)])
    one, two = updated(weight, [low_rank(up, down)]), updated(weight, [low_rank(other, down)])
    close(both, one + two - weight)
    close(updated(weight, [low_rank(up, 3 * down)]), weight + 3 * (one - weight))


@over(rows=sizes, columns=sizes, rank=ranks, seed=seeds)
def test_another_gauge_is_the_same_update(rows: int, columns: int, rank: int, seed: int) -> None:
    weight, up, down = noise(seed, rows, columns), noise(1, rows, rank), noise(2, rank, columns)
    gauge = torch.linalg.qr(noise(seed + 3, rank, rank)).Q * (1 + torch.arange(rank))
    moved = low_rank(up @ torch.linalg.inv(gauge), gauge @ down)
    close(updated(weight, [moved], 7), updated(weight, [low_rank(up, down)], 5), 1e-11)


@over(rows=sizes, columns=sizes, step=sizes, seed=seeds)
def test_scale_zero_leaves_every_bit(rows: int, columns: int, step: int, seed: int) -> None:
    weight = noise(seed, rows, columns)
    update = low_rank(noise(1, rows, 3), noise(2, 3, columns), 0.0)
    assert torch.equal(updated(weight, [update], step), weight)


@over(rows=sizes, columns=sizes, step=sizes, seed=seeds)
def test_order_does_not_matter(rows: int, columns: int, step: int, seed: int) -> None:
    weight = noise(seed, rows, columns)
    every = [low_rank(noise(i, rows, i), noise(-i, i, columns), 1 / i) for i in (1, 2, 5)]
    close(updated(weight, every, step), updated(weight, every[::-1], step))


@over(rows=sizes, columns=sizes, seed=seeds)
def test_an_update_and_its_opposite_cancel(rows: int, columns: int, seed: int) -> None:
    weight, up, down = noise(seed, rows, columns), noise(1, rows, 4), noise(2, 4, columns)
    close(updated(weight, [low_rank(up, down, 0.7), low_rank(up, down, -0.7)], 3), weight)


@over(rows=sizes, columns=sizes, rank=ranks, seed=seeds, scale=factors)
def test_norm_is_that_of_the_product(
    rows: int, columns: int, rank: int, seed: int, scale: float
) -> None:
    up, down = noise(seed, rows, rank), noise(seed + 1, rank, columns)
    wanted = torch.linalg.norm(scale * up @ down).item()
    assert math.isclose(low_rank(up, down, scale).product("float64").norm(), wanted, abs_tol=1e-9)
    assert math.isclose(
        low_rank(up, down, scale).product("float32").norm(), wanted, rel_tol=1e-3, abs_tol=1e-3
    )


def test_rows_longer_than_one_block_of_blas_are_right() -> None:
    # Above a million multiplications the product is taken in blocks, with a rest.
    up, down = noise(1, 203, 8), noise(2, 8, 3000)
    ours = Product(up.numpy(), down.numpy())
    out = noise(3, 150, 3000)
    ours.fill(out.numpy(), 51)
    close(out, (up @ down)[51:201])
