"""Grids against brute force in float64: on their values, between, beside and beyond them."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptertools import grid
from adaptertools.grid import Grid
from adaptertools.packing import Table
from tests.kit_grids import GRIDS, TABLES

every_grid = pytest.mark.parametrize("name", GRIDS)
steady = settings(deadline=None, derandomize=True, database=None, max_examples=40)
EVERY_BIT = np.arange(65536, dtype=np.uint16)

pytestmark = pytest.mark.usefixtures("quietly")
Array = NDArray[Any]
floats = st.floats(-1000, 1000, width=32)


@pytest.fixture(scope="module")
def quietly() -> Iterator[None]:
    """Let float32 overflow, as it may where weights are rounded."""
    with np.errstate(all="ignore"):
        yield


def hard(grid: Grid) -> Array:
    """The values, what lies halfway between them, the neighbours of both, and what is beyond."""
    values = grid.values
    halves = (values[1:].astype(np.float64) + values[:-1]) / 2
    some = np.concatenate([values, halves.astype(np.float32), [0.0, -0.0, 1e-38, -1e-38, 1e-45]])
    some = some.astype(np.float32)
    beside = [np.nextafter(some, np.float32(to)) for to in (-np.inf, np.inf)]
    ends = np.array([values[0] * 1.01, values[-1] * 1.01, -3e38, 3e38], np.float32)
    return np.concatenate([some, *beside, ends]).astype(np.float32)


def below(grid: Grid, t: Array) -> Array:
    """The place of the largest value ≤ t, by comparison with each."""
    inside = np.clip(t.astype(np.float64), grid.low, grid.high)
    found: Array = (grid.values.astype(np.float64) <= inside[:, None]).sum(1) - 1
    return found


def check_nearest(grid: Grid, t: Array) -> None:
    distance = np.abs(grid.values.astype(np.float64) - t.astype(np.float64)[:, None])
    found = grid.nearest(t)
    assert found.dtype == np.uint8
    assert found.shape == t.shape
    chosen = np.take_along_axis(distance, found[:, None].astype(np.int64), 1)[:, 0]
    # A midpoint that float32 cannot hold is rounded, so its next neighbours may go either way.
    spare = np.abs(t.astype(np.float64)) * 2**-23
    assert (chosen <= distance.min(1) + spare).all()


def check_stochastic(grid: Grid, t: Array, bits: Array) -> None:
    found, low = grid.stochastic(t, bits).astype(np.int64), below(grid, t)
    assert ((found == low) | (found == np.minimum(low + 1, len(grid.values) - 1))).all()
    on_it = grid.values[low] == np.clip(t, grid.low, grid.high)
    assert (found[on_it] == low[on_it]).all()


@every_grid
def test_nearest_in_hard_places(name: str) -> None:
    check_nearest(GRIDS[name], hard(GRIDS[name]))


@every_grid
@steady
@given(values=st.lists(floats, min_size=1, max_size=50), size=st.sampled_from([1, 1e-3, 1e3]))
def test_nearest_anywhere(name: str, values: list[float], size: float) -> None:
    check_nearest(GRIDS[name], np.array(values, np.float32) * np.float32(size))


@every_grid
def test_nearest_inside(name: str) -> None:
    grid, dice = GRIDS[name], np.random.default_rng(0)
    check_nearest(grid, dice.uniform(grid.low, grid.high, 20_000).astype(np.float32))
    small = np.exp(dice.uniform(-20, 0, 20_000)) * dice.choice([-1, 1], 20_000) * grid.high
    check_nearest(grid, small.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("e4m3", "float8_e4m3fn"), ("e5m2", "float8_e5m2"), ("mxfp4", "float4_e2m1fn")],
)
def test_nearest_is_that_of_ml_dtypes_but_for_ties(name: str, dtype: str) -> None:
    grid, dice = GRIDS[name], np.random.default_rng(1)
    t = dice.uniform(grid.low, grid.high, 50_000).astype(np.float32)
    t = np.concatenate([t, t / 100, t / 10_000]).astype(np.float32)
    ours, theirs = grid.values[grid.nearest(t)], t.astype(getattr(ml_dtypes, dtype))
    apart = ours != theirs.astype(np.float32)
    assert (np.abs(ours - t) == np.abs(theirs.astype(np.float32) - t))[apart].all()


@every_grid
@pytest.mark.parametrize("bits", [0, 1, 32767, 32768, 65535])
def test_stochastic_in_hard_places(name: str, bits: int) -> None:
    t = hard(GRIDS[name])
    check_stochastic(GRIDS[name], t, np.full(t.shape, bits, np.uint16))


@every_grid
@steady
@given(values=st.lists(floats, min_size=1, max_size=50), seed=st.integers(0, 99))
def test_stochastic_anywhere(name: str, values: list[float], seed: int) -> None:
    t = np.array(values, np.float32)
    bits = np.random.default_rng(seed).integers(0, 65536, t.shape, dtype=np.uint16)
    check_stochastic(GRIDS[name], t, bits)
    check_stochastic(GRIDS[name], t * GRIDS[name].high / np.float32(1000), bits)


@every_grid
@steady
@given(share=st.floats(-1, 1, width=32))
def test_stochastic_is_right_in_the_mean(name: str, share: float) -> None:
    grid = GRIDS[name]
    t = np.full(65536, np.float32(share) * grid.high, np.float32)
    ranks = grid.stochastic(t, EVERY_BIT)
    low = int(below(grid, t[:1])[0])
    gap = float(np.diff(grid.values.astype(np.float64), append=np.inf)[low])
    assert set(ranks.tolist()) <= {low, low + 1}
    mean = grid.values[ranks].astype(np.float64).mean()
    # As promised: 2⁻¹⁷ of a gap; and what float32 cannot tell apart.
    assert abs(mean - float(t[0])) <= gap * 2**-17 + abs(float(t[0])) * 2**-22


@every_grid
def test_stochastic_does_not_change_what_it_is_given(name: str) -> None:
    t = hard(GRIDS[name])
    kept = t.copy()
    GRIDS[name].stochastic(t, np.full(t.shape, 40_000, np.uint16))
    GRIDS[name].nearest(t)
    assert np.array_equal(t.view(np.uint32), kept.view(np.uint32))


@every_grid
def test_beyond_its_ends_everything_goes_to_them(name: str) -> None:
    grid = GRIDS[name]
    t = np.array([[-np.inf, -3e38], [3e38, np.inf]], np.float32)
    last = len(grid.values) - 1
    wanted = [[0, 0], [last, last]]
    for bits in (0, 65535):
        assert grid.stochastic(t, np.full(t.shape, bits, np.uint16)).tolist() == wanted
    assert grid.nearest(t).tolist() == wanted


@every_grid
def test_every_code_has_a_place_and_every_place_its_code(name: str) -> None:
    grid, table = GRIDS[name], TABLES[name]
    assert (np.diff(grid.values) > 0).all()
    assert np.array_equal(grid.ranks[grid.codes], np.arange(len(grid.values)))
    assert grid.holes == (name in ("e4m3", "e5m2"))
    assert grid.low == min(table.values)
    assert grid.high == max(table.values)


def test_a_grid_is_made_once() -> None:
    assert grid.grid(TABLES["nf4"]) is grid.grid(TABLES["nf4"])


@steady
@given(
    values=st.lists(
        st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3),
        min_size=3, max_size=40, unique_by=lambda x: x + 0.0,
    )
)  # fmt: skip
def test_any_table_at_all(values: list[float]) -> None:
    ordered = tuple(sorted(values))
    assume(min(np.diff(ordered)) * 1000 > ordered[-1] - ordered[0])  # as those of 4-bit packings
    made = Grid(Table(ordered, tuple(range(len(ordered))), tuple(range(len(ordered)))))
    t = hard(made)
    check_nearest(made, t)
    for bits in (0, 32767, 65535):
        check_stochastic(made, t, np.full(t.shape, bits, np.uint16))
