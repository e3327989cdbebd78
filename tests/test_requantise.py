"""Rounding: dice against statistics, feedback against GPTQ written densely, nothing for nothing."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptertools.requantise import GROUPS, MU_SHARP, Dice, Feedback, Rounder
from tests.kit_grids import GRIDS

pytestmark = pytest.mark.usefixtures("quietly")
every_grid = pytest.mark.parametrize("name", GRIDS)
every_rounding = pytest.mark.parametrize("rounding", ["nearest", "stochastic", "adapter"])
Array = NDArray[Any]
HALF = 32768  # of the random bits: rounds up from halfway on


@pytest.fixture(scope="module")
def quietly() -> Iterator[None]:
    """Let float32 overflow, as it may where weights are rounded."""
    with np.errstate(all="ignore"):
        yield


class Loaded:
    """Dice that always show the same."""

    def __init__(self, bits: int, columns: int) -> None:
        self.bits, self.columns = bits, columns

    def roll(self, row: int, rows: int) -> Array:
        return np.full((rows, self.columns), self.bits, np.uint16)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def basis(columns: int, rank: int, seed: int = 1) -> Array:
    return np.linalg.qr(normal(columns, rank, seed=seed))[0].astype(np.float32)


# Dice


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 64, 1000])
def test_dice_do_not_see_how_a_tensor_is_cut(columns: int) -> None:
    dice, rows = Dice("a.weight", 3, columns), 37
    whole = dice.roll(0, rows)
    assert whole.shape == (rows, columns)
    assert whole.dtype == np.uint16
    for cut in ([1] * rows, [5, 30, 2], [36, 1]):
        starts = np.cumsum([0, *cut[:-1]])
        parts = [Dice("a.weight", 3, columns).roll(s, n) for s, n in zip(starts, cut, strict=True)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_dice_know_tensor_and_seed() -> None:
    rolls = [
        Dice(name, seed, 64).roll(0, 64).tobytes()
        for name in ("a.weight", "b.weight", "a.weigh", "")
        for seed in (0, 1, -1, 2**70)
    ]
    assert len(set(rolls)) == len(rolls)
    assert Dice("a.weight", 0, 64).roll(0, 64).tobytes() == rolls[0]


def test_dice_are_fair() -> None:
    rows, columns = 512, 1000
    bits = Dice("a.weight", 0, columns).roll(0, rows)
    counts = np.array(list(Counter((bits >> 6).reshape(-1).tolist()).values()), float)
    assert len(counts) == 1024
    wanted = bits.size / 1024
    square = ((counts - wanted) ** 2 / wanted).sum()
    assert abs(square - 1023) < 6 * (2 * 1023) ** 0.5
    assert {0, 65535} & set(np.unique(bits).tolist()) != set()
    centred = bits / 65536 - 0.5
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((a * b).mean() * 12) < 6 / a.size**0.5  # neighbours know nothing of each other
    assert len(np.unique(bits, axis=0)) == rows


# Feedback, against GPTQ for the same Hessian, written densely and element by element


def gptq(target: Array, values: Array, u: Array, group: int) -> Array:
    """Round column by column; those to come move to where ‖E‖² + ‖E·U‖² is smallest.

    With the errors of columns F given, the best real errors of the others are
    E_R = −E_F · H_FR · H_RR⁻¹ for the Hessian H = I + U·Uᵀ. A group is rounded before any of its
    errors is known. `values` are those of the grid, of every element where scales differ.
    """
    rows, columns = target.shape
    hessian = np.eye(columns) + u @ u.T
    error, made = np.zeros((rows, columns)), np.zeros((rows, columns))
    for first in range(0, columns, group):
        known, rest = slice(0, first), slice(first, columns)
        best = -error[:, known] @ hessian[known, rest] @ np.linalg.inv(hessian[rest, rest])
        for j in range(first, min(first + group, columns)):
            wanted = target[:, j] + best[:, j - first]
            known_values = np.broadcast_to(values, (rows, columns, values.shape[-1]))[:, j]
            place = np.abs(known_values - wanted[:, None]).argmin(1)
            made[:, j] = known_values[np.arange(rows), place]
            error[:, j] = made[:, j] - target[:, j]
    return made


@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("mu", [0.5, 10.0, 1000.0])
@pytest.mark.parametrize("rank", [1, 4])
def test_feedback_is_gptq(rank: int, mu: float, group: int) -> None:
    rows, columns = 12, 24
    grid = GRIDS["int8"]  # equal steps: halfway is where the nearest changes
    start = grid.values[np.random.default_rng(2).integers(60, 200, (rows, columns))]
    moved = (normal(rows, columns, seed=3) * 0.004).astype(np.float32)
    v = basis(columns, rank)
    feedback = Feedback(v, mu, group)
    rounder = Rounder(grid, "adapter", Loaded(HALF, columns), feedback)  # type: ignore[arg-type]
    ours = grid.values[rounder.ranks(start, moved, np.ones((1, 1), np.float32), 0)]
    target = start.astype(np.float64) + moved
    wanted = gptq(target, grid.values.astype(np.float64), np.sqrt(mu) * v.astype(float), group)
    assert np.allclose(ours, wanted, atol=1e-6)
    assert not np.allclose(ours, grid.values[grid.nearest(target.astype(np.float32))])


@pytest.mark.parametrize("size", [1e-3, 0.37, 40.0])
@pytest.mark.parametrize("block", [1, 8, 24])
def test_feedback_knows_scales(block: int, size: float) -> None:
    rows, columns, grid = 12, 24, GRIDS["int8"]
    start = grid.values[np.random.default_rng(2).integers(60, 200, (rows, columns))]
    scales = (np.abs(normal(rows, columns // block, seed=9)) + 0.1) * size
    spread = np.repeat(scales, block, axis=1).astype(np.float32)
    moved = (normal(rows, columns, seed=3) * 0.004).astype(np.float32) * spread
    v = basis(columns, 3)
    rounder = Rounder(grid, "adapter", Loaded(HALF, columns), Feedback(v, group=1))  # type: ignore[arg-type]
    shape = spread[:, :1] if block == columns else spread
    ours = grid.values[rounder.ranks(start, moved, shape, 0)] * spread
    target = start.astype(np.float64) * spread + moved
    values = grid.values.astype(np.float64) * spread[:, :, None]
    wanted = gptq(target, values, np.sqrt(10.0) * v.astype(float), 1)
    assert np.allclose(ours, wanted, atol=1e-6 * size)


@pytest.mark.parametrize("columns", [1, 5, 512, 1000, 8192])
def test_groups_cover_every_column_once(columns: int) -> None:
    parts = [part for part, _, _ in Feedback(basis(columns, min(2, columns))).groups]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(columns))
    widths = {part.stop - part.start for part in parts[:-1]}
    assert len(widths) <= 1
    assert max(widths, default=GROUPS[0]) in range(GROUPS[0], GROUPS[1] + 1)


def test_more_directions_than_a_group_has_columns() -> None:
    columns, rank = 40, 32
    grid = GRIDS["nf4"]
    start = grid.values[np.random.default_rng(2).integers(0, 16, (64, columns))]
    moved = (normal(64, columns, seed=3) * 0.01).astype(np.float32)
    dice = Dice("a", 0, columns)
    feedback = Feedback(basis(columns, rank))
    made = grid.values[Rounder(grid, "adapter", dice, feedback).ranks(start, moved, ONE, 0)]
    assert np.isfinite(made).all()


# Rounders

ONE = np.ones((1, 1), np.float32)


def rounder(name: str, rounding: str, columns: int) -> Rounder:
    dice = None if rounding == "nearest" else Dice("a.weight", 0, columns)
    feedback = Feedback(basis(columns, 3)) if rounding == "adapter" else None
    return Rounder(GRIDS[name], rounding, dice, feedback)


@every_rounding
@every_grid
@pytest.mark.parametrize("size", [1.0, 0.013, 2.0**-127, 1e-39, 1e-45, 1e30, 0.0])
def test_where_nothing_moves_nothing_moves(name: str, rounding: str, size: float) -> None:
    count = len(GRIDS[name].values)
    ranks = np.random.default_rng(5).integers(0, count, (40, 48)).astype(np.uint8)
    start = GRIDS[name].values[ranks]
    for spread in (np.full((40, 48), size, np.float32), np.full((40, 1), size, np.float32)):
        for nothing in (np.zeros((40, 48), np.float32), -np.zeros((40, 48), np.float32)):
            made = rounder(name, rounding, 48).ranks(start, nothing, spread, 0)
            assert np.array_equal(made, ranks)


@every_grid
def test_a_block_of_scale_zero_stays(name: str) -> None:
    """Whatever its codes stand for, no code in it could hold a change."""
    ranks = np.full((4, 16), len(GRIDS[name].values) // 2, np.uint8)
    spread = np.zeros((4, 16), np.float32)
    moved = normal(4, 16).astype(np.float32)
    for rounding in ("nearest", "stochastic"):
        made = rounder(name, rounding, 16).ranks(GRIDS[name].values[ranks], moved, spread, 0)
        assert np.array_equal(made, ranks)


@every_grid
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_rows_are_rounded_by_themselves(name: str, rounding: str) -> None:
    ranks = np.random.default_rng(5).integers(0, len(GRIDS[name].values), (33, 48))
    start, moved = GRIDS[name].values[ranks], (normal(33, 48) * 0.3).astype(np.float32)
    spread = np.abs(normal(33, 48, seed=8)).astype(np.float32)
    whole = rounder(name, rounding, 48).ranks(start, moved, spread, 0)
    for first, last in ((0, 1), (1, 20), (20, 33)):
        part = slice(first, last)
        made = rounder(name, rounding, 48).ranks(start[part], moved[part], spread[part], first)
        assert np.array_equal(made, whole[part])


def many(name: str, rounding: str, share: float) -> tuple[float, float, float]:
    """Round a change on a grid; give what is kept of it, the error in its space, all the error."""
    rows, columns, grid = 256, 1024, GRIDS[name]
    inner = slice(2, -2)  # no element at the ends of the grid, where all is clipped
    start = grid.values[inner][
        np.random.default_rng(5).integers(0, len(grid.values) - 4, (rows, columns))
    ]
    v = basis(columns, 4)
    moved = normal(rows, 4, seed=6) @ v.T
    moved *= share * np.linalg.norm(start) / np.linalg.norm(moved)
    dice = None if rounding == "nearest" else Dice("a", 0, columns)
    feedback = {"adapter": Feedback(v), "sharp": Feedback(v, MU_SHARP, sharp=True)}.get(rounding)
    made = grid.values[
        Rounder(grid, rounding, dice, feedback).ranks(start, moved.astype(np.float32), ONE, 0)
    ].astype(np.float64)
    error = made - start - moved
    size = float(np.linalg.norm(moved))
    kept = float(((made - start) * moved).sum()) / size**2
    return kept, float(np.linalg.norm(error @ v)) / size, float(np.linalg.norm(error)) / size


@pytest.mark.parametrize("name", ["nf4", "fp4", "mxfp4", "int8", "e4m3"])
@pytest.mark.parametrize("share", [0.003, 0.01])
def test_what_each_rounding_keeps(name: str, share: float) -> None:
    nearest, _, _ = many(name, "nearest", share)
    chance, loose, _ = many(name, "stochastic", share)
    kept, tight, noise = many(name, "adapter", share)
    assert abs(chance - 1) < 0.15
    assert abs(kept - 1) < 0.05
    assert tight < loose / 2
    if name in ("nf4", "fp4", "mxfp4"):
        assert nearest < 0.25
    if share == 0.01:  # a change that is not tiny beside the steps
        sharp, inside, less = many(name, "sharp", share)
        assert abs(sharp - 1) < 0.05
        assert inside < tight
        assert less < noise
