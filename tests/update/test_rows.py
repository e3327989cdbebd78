"""Rows and whole tensors that take the place of the base's, or part of the way."""

import torch
from hypothesis import strategies as st

from adaptertools.update import Update
from adaptertools.update.rows import Rows, Toward
from adaptertools.update.shift import Shift
from tests.update.weights import Held, close, factors, noise, over, seeds, sizes, updated


@over(data=st.data(), rows=sizes, columns=sizes, step=sizes, weight=factors, seed=seeds)
def test_rows_move_and_the_others_keep_every_bit(
    data: st.DataObject, rows: int, columns: int, step: int, weight: float, seed: int
) -> None:
    indices = data.draw(st.lists(st.integers(0, rows - 1), unique=True))
    base, values = noise(seed, rows, columns), noise(seed + 1, len(indices), columns)
    wanted = base.clone()
    wanted[indices] += weight * (values - base[indices])
    ours = updated(base, [Rows(tuple(indices), Held(values), weight)], step)
    close(ours, wanted)
    others = [i for i in range(rows) if i not in indices]
    assert torch.equal(ours[others], base[others])


def test_rows_of_weight_one_are_the_stored_ones() -> None:
    values = noise(1, 2, 4)
    ours = updated(noise(0, 9, 4), [Rows((7, 2), Held(values))], 3)
    assert torch.equal(ours[[7, 2]], values)


@over(rows=sizes, columns=sizes, step=sizes, weight=factors, seed=seeds)
def test_toward_goes_part_of_the_way(
    rows: int, columns: int, step: int, weight: float, seed: int
) -> None:
    base, goal = noise(seed, rows, columns), noise(seed + 1, rows, columns)
    ours = updated(base, [Toward(Held(goal), weight)], step)
    close(ours, base + weight * (goal - base))
    if weight == 1:
        assert torch.equal(ours, goal)


@over(rows=sizes, step=sizes, scale=factors, seed=seeds)
def test_shift_adds_the_vector(rows: int, step: int, scale: float, seed: int) -> None:
    base, vector = noise(seed, rows, 1), noise(seed + 1, rows, 1)
    ours = updated(base, [Shift(Held(vector), scale)], step)
    close(ours, base + scale * vector)


def test_shifts_come_in_any_order() -> None:
    every: list[Update] = [Shift(Held(noise(i, 30, 1)), 0.3 * i) for i in range(4)]
    base = noise(9, 30, 1)
    close(updated(base, every, 7), updated(base, every[::-1], 7))
