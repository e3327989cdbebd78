"""Rounding: dice against statistics, feedback against GPTQ written densely, nothing for nothing."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptertools.requantise import GROUPS, Dice, Feedback, Focus, Rounder, half_step
from adaptertools.spaces import Spaces, spaces
from adaptertools.update.lowrank import LowRank
from tests.kit_grids import GRIDS, TABLES
from tests.update.weights import Held

pytestmark = pytest.mark.usefixtures("quietly")
every_grid = pytest.mark.parametrize("name", GRIDS)
every_rounding = pytest.mark.parametrize("rounding", ["nearest", "stochastic", "adapter"])
Array = NDArray[Any]
HALF = 32768  # of the random bits: rounds up from halfway on
ROOM = 1e6  # steps that an element may be pushed: no bound


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


def basis(rows: int, rank: int, seed: int = 1) -> Array:
    return np.linalg.qr(normal(rows, rank, seed=seed))[0].astype(np.float32)


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
def test_feedback_is_gptq_by_rows(rank: int, mu: float, group: int) -> None:
    rows, columns = 24, 30
    grid = GRIDS["int8"]  # equal steps: halfway is where the nearest changes
    start = grid.values[np.random.default_rng(2).integers(60, 200, (rows, columns))]
    moved = (normal(rows, columns, seed=3) * 0.004).astype(np.float32)
    u = basis(rows, rank)
    feedback = Feedback(u, ROOM, None, mu, group)
    rounder = Rounder(grid, "adapter", Loaded(HALF, columns), feedback)  # type: ignore[arg-type]
    ours = grid.values[rounder.ranks(start, moved, np.ones((1, 1), np.float32), 0)]
    target = start.astype(np.float64) + moved
    wanted = gptq(target.T, grid.values.astype(np.float64), np.sqrt(mu) * u.astype(float), group)
    assert np.allclose(ours, wanted.T, atol=1e-6)
    assert not np.allclose(ours, grid.values[grid.nearest(target.astype(np.float32))])


@pytest.mark.parametrize("size", [1e-3, 0.37, 40.0])
@pytest.mark.parametrize("block", [1, 6, 30])
def test_feedback_knows_scales(block: int, size: float) -> None:
    rows, columns, grid = 24, 30, GRIDS["int8"]
    start = grid.values[np.random.default_rng(2).integers(60, 200, (rows, columns))]
    scales = (np.abs(normal(rows, columns // block, seed=9)) + 0.1) * size
    spread = np.repeat(scales, block, axis=1).astype(np.float32)
    moved = (normal(rows, columns, seed=3) * 0.004).astype(np.float32) * spread
    u = basis(rows, 3)
    rounder = Rounder(grid, "adapter", Loaded(HALF, columns), Feedback(u, ROOM, group=1))  # type: ignore[arg-type]
    shape = spread[:, :1] if block == columns else spread
    ours = grid.values[rounder.ranks(start, moved, shape, 0)] * spread
    target = start.astype(np.float64) * spread + moved
    values = grid.values.astype(np.float64) * spread.T[:, :, None]
    wanted = gptq(target.T, values, np.sqrt(10.0) * u.astype(float), 1)
    assert np.allclose(ours, wanted.T, atol=1e-6 * size)


def test_a_push_ends_at_half_a_step() -> None:
    """Where it comes from rows of large steps, and goes to those of small ones."""
    rows, columns, grid = 48, 30, GRIDS["int8"]
    spread = np.where(np.arange(rows) % 2, 1e-3, 1.0)[:, None].astype(np.float32)
    moved = (normal(rows, columns, seed=3) * 0.3 * spread).astype(np.float32)
    feedback = Feedback(basis(rows, 3), half_step(TABLES["int8"]), group=1)
    rounder = Rounder(grid, "adapter", Dice("a", 0, columns), feedback)
    made = grid.values[rounder.ranks(np.zeros_like(moved), moved, spread, 0)] * spread
    assert (np.abs(made - moved) <= 1.501 * spread / 127).all()
    assert (np.abs(made - moved) > 1.01 * spread / 127).any()


@pytest.mark.parametrize("rows", [1, 5, 512, 1000, 8192])
def test_groups_cover_every_row_once_however_they_come(rows: int) -> None:
    feedback = Feedback(basis(rows, min(2, rows)), 1.0)
    assert feedback.group in range(GROUPS[0], GROUPS[1] + 1)
    for height in (rows, 7, 40):
        seen, ends = [], set()
        for row in range(0, rows, height):
            for part in feedback.parts(row, min(height, rows - row)):
                seen += range(row + part.start, row + part.stop)
                ends.add(row + part.stop)
        assert seen == list(range(rows))
        assert set(range(feedback.group, rows, feedback.group)) <= ends


def test_more_directions_than_a_group_has_rows() -> None:
    rows, columns = 40, 64
    grid = GRIDS["nf4"]
    start = grid.values[np.random.default_rng(2).integers(0, 16, (rows, columns))]
    moved = (normal(rows, columns, seed=3) * 0.01).astype(np.float32)
    feedback = Feedback(basis(rows, 32), 0.1)
    dice = Dice("a", 0, columns)
    made = grid.values[Rounder(grid, "adapter", dice, feedback).ranks(start, moved, ONE, 0)]
    assert np.isfinite(made).all()


# Focus: which elements carry a change

FAR = (np.full((1, 1), -1e9), np.full((1, 1), 1e9))  # the ends of a grid: nothing reaches them


def change(rows: int, columns: int, rank: int, seed: int = 6) -> tuple[Array, Spaces]:
    """A product, and what it reads and writes."""
    up, down = normal(rows, rank, seed=seed), normal(rank, columns, seed=seed + 1)
    held = LowRank(Held(torch.from_numpy(up)), Held(torch.from_numpy(down)), 1.0)
    return up @ down, spaces([held])


@pytest.mark.parametrize("name", GRIDS)
def test_a_small_change_is_carried_by_its_large_elements(name: str) -> None:
    moved, known = change(256, 512, 8)
    values = np.array(TABLES[name].values)
    focus = Focus.of(known, TABLES[name], 1e6)  # beside which the change is tiny
    target = focus.carried(moved.astype(np.float32), *FAR, 0)
    sent = target != 0
    assert 0.25 < sent.mean() < 0.4
    assert (np.abs(moved[~sent]) < 1.01 * np.sqrt((moved**2).mean())).all()
    assert (target[sent] * moved[sent] > 0).all()
    assert (np.abs(target) <= 2.001 * np.abs(moved)).all()
    # What each row is worth along the change is as it was.
    assert np.allclose((target * moved).sum(1), (moved**2).sum(1), rtol=1e-4)
    large = Focus.of(known, TABLES[name], 1e-3 / np.ptp(values))
    assert (
        large.carried(moved.astype(np.float32), *FAR, 0) == moved.astype(np.float32)
    ).mean() > 0.95


def test_small_rows_and_columns_keep_their_part() -> None:
    up, down = normal(64, 4), normal(4, 128, seed=1)
    up[::2] *= 1e-4
    down[:, ::2] *= 1e-4
    known = spaces([LowRank(Held(torch.from_numpy(up)), Held(torch.from_numpy(down)), 1.0)])
    target = Focus.of(known, TABLES["nf4"], 1e9).carried((up @ down).astype(np.float32), *FAR, 0)
    sent = target != 0
    for i in range(2):
        assert (sent[i::2].mean(1) > 0.05).all()
        assert (sent[:, i::2].mean(0) > 0.0).mean() > 0.95


def test_elements_at_the_end_of_the_grid_are_stood_in_for() -> None:
    moved, known = change(64, 1024, 8)
    small = moved.astype(np.float32)
    stopped = np.random.default_rng(3).random(moved.shape) < 0.1
    ends = [np.where(stopped, 0, end).astype(np.float32) for end in (-1e9, 1e9)]
    target = Focus.of(known, TABLES["nf4"], 1e6).carried(small, ends[0], ends[1], 0)
    assert not target[stopped].any()
    assert np.allclose((target * moved).sum(1), (moved**2).sum(1), rtol=1e-4)


def test_changes_of_one_size_are_all_sent() -> None:
    """None of them stands out, and none may be lost for that."""
    up, down = np.sign(normal(32, 1)), np.sign(normal(1, 48, seed=2))
    known = spaces([LowRank(Held(torch.from_numpy(up)), Held(torch.from_numpy(down)), 0.01)])
    moved = (0.01 * up @ down).astype(np.float32)
    assert np.array_equal(Focus.of(known, TABLES["nf4"], 1.0).carried(moved, *FAR, 0), moved)


# Rounders

ONE = np.ones((1, 1), np.float32)


def rounder(name: str, rounding: str, rows: int, columns: int) -> Rounder:
    dice = None if rounding == "nearest" else Dice("a.weight", 0, columns)
    _, known = change(rows, columns, 3)
    feedback = Feedback(known.writes, half_step(TABLES[name]), Focus.of(known, TABLES[name], 1.0))
    return Rounder(GRIDS[name], rounding, dice, feedback if rounding == "adapter" else None)


@every_rounding
@every_grid
@pytest.mark.parametrize("size", [1.0, 0.013, 2.0**-127, 1e-39, 1e-45, 1e30, 0.0])
def test_where_nothing_moves_nothing_moves(name: str, rounding: str, size: float) -> None:
    count = len(GRIDS[name].values)
    ranks = np.random.default_rng(5).integers(0, count, (40, 48)).astype(np.uint8)
    start = GRIDS[name].values[ranks]
    for spread in (np.full((40, 48), size, np.float32), np.full((40, 1), size, np.float32)):
        for nothing in (np.zeros((40, 48), np.float32), -np.zeros((40, 48), np.float32)):
            made = rounder(name, rounding, 40, 48).ranks(start, nothing, spread, 0)
            assert np.array_equal(made, ranks)


@every_grid
def test_a_block_of_scale_zero_stays(name: str) -> None:
    """Whatever its codes stand for, no code in it could hold a change."""
    ranks = np.full((4, 16), len(GRIDS[name].values) // 2, np.uint8)
    spread = np.zeros((4, 16), np.float32)
    moved = normal(4, 16).astype(np.float32)
    for rounding in ("nearest", "stochastic"):
        made = rounder(name, rounding, 4, 16).ranks(GRIDS[name].values[ranks], moved, spread, 0)
        assert np.array_equal(made, ranks)


@every_grid
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_rows_are_rounded_by_themselves(name: str, rounding: str) -> None:
    ranks = np.random.default_rng(5).integers(0, len(GRIDS[name].values), (33, 48))
    start, moved = GRIDS[name].values[ranks], (normal(33, 48) * 0.3).astype(np.float32)
    spread = np.abs(normal(33, 48, seed=8)).astype(np.float32)
    whole = rounder(name, rounding, 33, 48).ranks(start, moved, spread, 0)
    for first, last in ((0, 1), (1, 20), (20, 33)):
        part = slice(first, last)
        made = rounder(name, rounding, 33, 48).ranks(start[part], moved[part], spread[part], first)
        assert np.array_equal(made, whole[part])


@every_grid
def test_steered_rounding_does_not_see_tiles(name: str) -> None:
    moved, known = change(120, 48, 3)
    moved = (moved * 0.1).astype(np.float32)
    ranks = np.random.default_rng(5).integers(0, len(GRIDS[name].values), moved.shape)
    start, spread = GRIDS[name].values[ranks], np.abs(normal(*moved.shape, seed=8)) + 0.1
    found = []
    for height in (120, 50, 7):
        focus = Focus.of(known, TABLES[name], 0.9)
        one = Rounder(
            GRIDS[name],
            "adapter",
            Dice("a", 0, 48),
            Feedback(known.writes, half_step(TABLES[name]), focus),
        )
        parts = [slice(row, row + height) for row in range(0, 120, height)]
        scale = spread.astype(np.float32)
        made = [one.ranks(start[p], moved[p], scale[p], p.start) for p in parts]
        found.append(np.concatenate(made))
    # Sums over another number of rows may differ in the last place, and one die with them.
    assert all((other != found[0]).mean() < 0.01 for other in found[1:])


@every_grid
@pytest.mark.parametrize("share", [0.003, 0.1])
def test_nothing_moves_against_its_change(name: str, share: float) -> None:
    moved, known = change(128, 96, 4)
    grid = GRIDS[name]
    ranks = np.random.default_rng(5).integers(0, len(grid.values), moved.shape)
    start = grid.values[ranks].astype(np.float64)
    moved *= share * np.linalg.norm(start) / np.linalg.norm(moved)
    size = np.sqrt((moved**2).mean())
    known = Spaces(
        known.reads, known.writes, *(x * size / known.size for x in (known.rows, known.columns))
    )
    steered = Feedback(known.writes, half_step(TABLES[name]), Focus.of(known, TABLES[name], 1.0))
    rounder = Rounder(grid, "adapter", Dice("a", 0, 96), steered)
    made = grid.values[rounder.ranks(start.astype(np.float32), moved.astype(np.float32), ONE, 0)]
    gone = made - start
    assert (gone * moved >= 0).all()
    values = grid.values.astype(np.float64)
    last = np.searchsorted(values, np.abs(4 * moved) + np.where(moved > 0, start, -start) - 1e-6)
    mirrored = np.where(moved > 0, made, -made)
    if np.allclose(values, -values[::-1]):
        assert (mirrored <= values[np.minimum(last, len(values) - 1)] + 1e-6).all()


def many(name: str, rounding: str, share: float) -> tuple[float, float, float, float]:
    """Round a change on a grid; give what is kept of all and of the worst column, and errors.

    Errors are in the directions that the change writes, and altogether, beside the change.
    """
    rows, columns, grid = 512, 256, GRIDS[name]
    inner = slice(2, -2)  # no element at the ends of the grid, where all is clipped
    start = grid.values[inner][
        np.random.default_rng(5).integers(0, len(grid.values) - 4, (rows, columns))
    ]
    moved, known = change(rows, columns, 4)
    scale = share * np.linalg.norm(start) / np.linalg.norm(moved)
    moved *= scale
    held = (x * np.float32(scale) for x in (known.rows, known.columns))
    known = Spaces(known.reads, known.writes, *held)
    dice = None if rounding == "nearest" else Dice("a", 0, columns)
    steered = Feedback(known.writes, half_step(TABLES[name]), Focus.of(known, TABLES[name], 1.0))
    feedback = steered if rounding == "adapter" else None
    made = grid.values[
        Rounder(grid, rounding, dice, feedback).ranks(start, moved.astype(np.float32), ONE, 0)
    ].astype(np.float64)
    error = made - start - moved
    size = float(np.linalg.norm(moved))
    kept = ((made - start) * moved).sum(0)
    columns_kept = float(np.quantile(kept / (moved**2).sum(0), 0.05))
    inside = float(np.linalg.norm(known.writes.T @ error)) / size
    return float(kept.sum()) / size**2, columns_kept, inside, float(np.linalg.norm(error)) / size


@pytest.mark.parametrize("name", ["nf4", "fp4", "mxfp4", "int8", "e4m3"])
@pytest.mark.parametrize("share", [0.003, 0.01, 0.03])
def test_what_each_rounding_keeps(name: str, share: float) -> None:
    nearest, _, _, _ = many(name, "nearest", share)
    chance, by_chance, loose, noise = many(name, "stochastic", share)
    kept, columns, tight, steered = many(name, "adapter", share)
    assert abs(chance - 1) < 0.15
    assert abs(kept - 1) < 0.05
    assert tight < 0.65 * loose
    assert columns > by_chance - 0.1
    assert steered < 1.02 * noise
    if name in ("nf4", "fp4", "mxfp4"):
        assert steered < 0.95 * noise
        assert nearest < (0.25 if share < 0.02 else 0.5)
