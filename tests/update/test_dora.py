"""m · V / ‖V‖ against the dense formula, along rows and along columns."""

import pytest
import torch

from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from tests.update.weights import Held, close, factors, noise, over, ranks, seeds, sizes, updated

by_either = pytest.mark.parametrize("by_column", [False, True], ids=["rows", "columns"])


def make(
    rows: int, columns: int, rank: int, by_column: bool, seed: int, weight: float = 1.0
) -> Dora:
    low = LowRank(Held(noise(seed, rows, rank)), Held(noise(seed + 1, rank, columns)), 0.4)
    magnitude = 1 + noise(seed + 2, 1, columns if by_column else rows).abs()
    return Dora(low, Held(magnitude), by_column, weight)


def dense(update: Dora, now: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The formula of the paper; the norm is that of the base, whatever came before."""
    delta = update.low.scale * update.low.up.values @ update.low.down.values  # type: ignore[attr-defined]
    norms = torch.linalg.norm(base + delta, dim=0 if update.by_column else 1)
    factor = update.magnitude.values[0] / norms  # type: ignore[attr-defined]
    factor = factor[None, :] if update.by_column else factor[:, None]
    return now + update.weight * (factor * (now + delta) - now)


@by_either
@over(rows=sizes, columns=sizes, rank=ranks, step=sizes, weight=factors, seed=seeds)
def test_any_tiling_gives_the_dense_formula(
    by_column: bool, rows: int, columns: int, rank: int, step: int, weight: float, seed: int
) -> None:
    base, update = noise(seed, rows, columns), make(rows, columns, rank, by_column, 5, weight)
    wanted = dense(update, base, base)
    close(updated(base, [update], step), wanted, 1e-11)
    close(updated(base, [update]), wanted, 1e-11)


@by_either
@over(rows=sizes, columns=sizes, step=sizes, seed=seeds)
def test_a_second_one_keeps_the_norm_of_the_base(
    by_column: bool, rows: int, columns: int, step: int, seed: int
) -> None:
    base = noise(seed, rows, columns)
    one, two = make(rows, columns, 2, by_column, 11), make(rows, columns, 3, by_column, 21, 0.6)
    wanted = dense(two, dense(one, base, base), base)
    close(updated(base, [one, two], step), wanted, 1e-11)


@by_either
def test_norms_become_the_magnitude(by_column: bool) -> None:
    update = make(13, 17, 3, by_column, 3)
    ours = updated(noise(0, 13, 17), [update], 4)
    norms = torch.linalg.norm(ours, dim=0 if by_column else 1)
    close(norms, update.magnitude.values[0])  # type: ignore[attr-defined]


@by_either
def test_weight_zero_leaves_the_weight(by_column: bool) -> None:
    base = noise(0, 9, 6)
    close(updated(base, [make(9, 6, 2, by_column, 3, weight=0.0)], 2), base)


def test_a_zero_row_stays_zero() -> None:
    base, up = noise(0, 6, 5), noise(1, 6, 2)
    base[2] = up[2] = 0
    update = Dora(
        LowRank(Held(up), Held(noise(2, 2, 5)), 1.0), Held(torch.ones(1, 6).double()), False
    )
    ours = updated(base, [update], 4)
    assert torch.equal(ours[2], torch.zeros(5).double())
    assert ours.isfinite().all()


def test_a_zero_column_stays_zero() -> None:
    base, down = noise(0, 6, 5), noise(1, 2, 5)
    base[:, 3] = down[:, 3] = 0
    update = Dora(
        LowRank(Held(noise(2, 6, 2)), Held(down), 1.0), Held(torch.ones(1, 5).double()), True
    )
    ours = updated(base, [update], 4)
    assert torch.equal(ours[:, 3], torch.zeros(6).double())
    assert ours.isfinite().all()
