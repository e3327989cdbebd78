"""What a change reads and writes, and how large it is where, against dense SVDs in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from adaptertools.spaces import LARGEST, SKETCHED, STEERED, Spaces, spaces
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from adaptertools.update.rows import Toward
from adaptertools.update.shift import Shift
from tests.update.weights import Held, Weight, noise


def held(
    weight: torch.Tensor, updates: Sequence[Update], step: int = 7, dtype: str = "float32"
) -> Spaces:
    base = Weight(weight, step, dtype)
    found = spaces(updates, [update.open(base) for update in updates], base)
    for basis in (found.reads, found.writes):
        assert basis.dtype == np.float32
        gram = basis.T.astype(np.float64) @ basis
        assert np.allclose(gram, np.eye(basis.shape[1]), atol=1e-5)
    return found


def space(
    weight: torch.Tensor, updates: Sequence[Update], step: int = 7, dtype: str = "float32"
) -> Any:
    return held(weight, updates, step, dtype).reads.astype(np.float64)


def lora(seed: int, rows: int, columns: int, rank: int, scale: float = 1.0) -> LowRank:
    up, down = noise(seed, rows, rank), noise(seed + 1, rank, columns)
    return LowRank(Held(up), Held(down), scale)


def delta(update: LowRank) -> torch.Tensor:
    return torch.from_numpy(
        update.scale * (update.up.read("float64") @ update.down.read("float64"))
    )


def caught(basis: Any, change: torch.Tensor) -> float:
    """The share of a change's energy that lies in the space."""
    return float(np.linalg.norm(change.numpy() @ basis) ** 2 / np.linalg.norm(change.numpy()) ** 2)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(40, 24, 4), (8, 60, 1), (30, 16, 16)])
def test_one_product(rows: int, columns: int, rank: int) -> None:
    update = lora(0, rows, columns, rank, scale=0.3)
    found = space(noise(9, rows, columns), [update])
    assert found.shape == (columns, rank)
    assert caught(found, delta(update)) == pytest.approx(1, abs=1e-6)


def test_several_products_are_spanned_together() -> None:
    updates = [lora(10 * i, 40, 64, 3, scale=10.0**-i) for i in range(3)]
    found = space(noise(9, 40, 64), updates)
    assert found.shape == (64, 9)
    for update in updates:
        assert caught(found, delta(update)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_directions_twice_and_some_that_are_zero(count: int) -> None:
    down = noise(1, 4, 32)
    down[2] = down[1]
    down[3] = 0
    updates = [LowRank(Held(noise(i, 20, 4)), Held(down), 1.0) for i in range(count)]
    found = space(noise(9, 20, 32), updates)
    for update in updates:
        assert caught(found, delta(update)) == pytest.approx(1, abs=1e-6)


def test_more_rows_than_columns_give_the_strongest_directions() -> None:
    update = lora(0, 50, 12, 20)
    found = space(noise(9, 50, 12), [update])
    assert found.shape[1] <= 12
    assert caught(found, delta(update)) == pytest.approx(1, abs=1e-6)


def test_too_many_directions_are_cut_to_the_strongest() -> None:
    rank, columns = LARGEST + 40, 300
    up, down = noise(0, 60, rank), noise(1, rank, columns)
    up *= torch.linspace(2, 0.01, rank).double()
    updates = [
        LowRank(Held(up[:, :100]), Held(down[:100]), 1.0),
        LowRank(Held(10 * up[:, 100:]), Held(down[100:]), 0.1),
    ]
    found = space(noise(9, 60, columns), updates)
    assert found.shape[1] <= LARGEST
    change = up @ down
    best = torch.linalg.svdvals(change)[:LARGEST].square().sum() / change.square().sum()
    assert caught(found, change) >= float(best) - 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_updates_are_sketched(dtype: str) -> None:
    rows, columns = 48, 40
    weight, low = noise(5, rows, columns), lora(0, rows, columns, 3, 0.05)
    norm = torch.linalg.norm(weight, dim=1) * 1.02
    dora = Dora(low, Held(norm[None]), by_column=False)
    found = space(weight, [dora], dtype=dtype)
    assert found.shape == (columns, min(SKETCHED, rows, columns))
    new = weight + delta(low)
    change = norm[:, None] * new / torch.linalg.norm(new, dim=1, keepdim=True) - weight
    values = torch.linalg.svdvals(change).square()
    best = float(values[: found.shape[1]].sum() / values.sum())
    assert caught(found, change) > 0.9 * best
    assert caught(found, delta(low)) > 0.9


def test_a_sketch_sees_all_updates_in_their_order() -> None:
    rows, columns = 32, 30
    weight, vector = noise(5, rows, columns), noise(6, rows, 1)
    low = lora(0, rows, columns, 2, 3.0)
    updates = [low, Shift(Held(vector), 0.5), Toward(Held(weight + noise(8, rows, columns)), 0.0)]
    found = space(weight, updates)
    assert caught(found, delta(low)) > 0.999


def test_the_result_does_not_hang_on_chance() -> None:
    weight, low = noise(5, 20, 24), lora(0, 20, 24, 2)
    updates = [Dora(low, Held(noise(3, 1, 20).abs()), by_column=False)]
    assert np.array_equal(space(weight, updates), space(weight, updates))


def test_nothing_to_read() -> None:
    zero = LowRank(Held(noise(0, 20, 2) * 0), Held(noise(1, 2, 24)), 1.0)
    assert space(noise(5, 20, 24), [zero]).shape == (24, 2)
    nowhere = LowRank(Held(noise(0, 20, 2)), Held(noise(1, 2, 24) * 0), 1.0)
    assert space(noise(5, 20, 24), [nowhere]).shape == (24, 2)
    still = Toward(Held(noise(5, 20, 24)), 1.0)
    assert len(space(noise(5, 20, 24), [still], dtype="float64")) == 24


def fits(found: Spaces, change: torch.Tensor, near: float = 1e-5) -> None:
    """Hold sizes against the dense change."""
    square = change.square()
    for sizes, axis in ((found.rows, 1), (found.columns, 0)):
        assert np.allclose(sizes, square.mean(axis).sqrt(), rtol=near, atol=1e-12)
    assert found.size == pytest.approx(float(square.mean().sqrt()), rel=near)


def written(found: Spaces, change: torch.Tensor) -> float:
    """The share of a change's energy that lies in what it is said to write."""
    inside = np.linalg.norm(found.writes.T.astype(np.float64) @ change.numpy())
    return float(inside**2 / np.linalg.norm(change.numpy()) ** 2)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(40, 24, 4), (8, 60, 1), (30, 16, 20)])
def test_what_a_product_writes(rows: int, columns: int, rank: int) -> None:
    update = lora(0, rows, columns, rank, scale=0.3)
    found = held(noise(9, rows, columns), [update])
    assert found.writes.shape == (rows, min(rows, columns, rank))
    assert written(found, delta(update)) == pytest.approx(1, abs=1e-6)
    fits(found, delta(update))


def test_several_products_write_their_strongest_directions() -> None:
    updates = [lora(10 * i, 200, 150, 30, scale=2.0**-i) for i in range(3)]
    found, change = held(noise(9, 200, 150), updates), sum(delta(u) for u in updates)
    assert isinstance(change, torch.Tensor)
    assert found.writes.shape == (200, STEERED)
    values = torch.linalg.svdvals(change).square()
    assert written(found, change) == pytest.approx(float(values[:STEERED].sum() / values.sum()))
    fits(found, change)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_another_update_writes(dtype: str) -> None:
    rows, columns = 48, 40
    weight, low = noise(5, rows, columns), lora(0, rows, columns, 3, 0.05)
    norm = torch.linalg.norm(weight, dim=1) * 1.02
    found = held(weight, [Dora(low, Held(norm[None]), by_column=False)], dtype=dtype)
    new = weight + delta(low)
    change = norm[:, None] * new / torch.linalg.norm(new, dim=1, keepdim=True) - weight
    values = torch.linalg.svdvals(change).square()
    best = float(values[: found.writes.shape[1]].sum() / values.sum())
    assert written(found, change) > 0.8 * best
    fits(found, change, 1e-3 if dtype == "float32" else 1e-6)


def test_factors_that_are_not_finite() -> None:
    """The tiles refuse them, or let them through; here they only may not end the run."""
    up = noise(0, 20, 2)
    up[3, 1] = torch.inf
    with np.errstate(all="ignore"):
        found = spaces([LowRank(Held(up), Held(noise(1, 2, 24)), 1.0)])
    for array in (found.reads, found.writes, found.rows, found.columns):
        assert np.isfinite(array).all()
