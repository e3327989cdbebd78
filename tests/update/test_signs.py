"""Sampled sign conflicts against the dense matrices."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import strategies as st

from adaptertools.update.factors import Factors
from adaptertools.update.signs import Share, Tally, share, tally
from tests.update.weights import over, seeds


def parts(seed: int, count: int, rows: int = 60, columns: int = 50) -> list[Factors]:
    random = np.random.default_rng(seed)
    common = random.normal(size=(rows, 3)), random.normal(size=(3, columns))
    return [Factors(common[0] + random.normal(size=(rows, 3)), common[1]) for _ in range(count)]


def dense(held: list[Factors]) -> tuple[dict[tuple[int, int], float], float]:
    whole = [np.sign(part.up @ part.down) for part in held]
    each = {(a, b): (whole[a] * whole[b] < 0).mean() for a, b in combinations(range(len(held)), 2)}
    stacked = np.stack(whole)
    return each, ((stacked > 0).any(0) & (stacked < 0).any(0)).mean()


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@over(seed=seeds, count=st.integers(2, 4))
def test_all_entries_are_exact(seed: int, count: int) -> None:
    held = parts(seed, count, 11, 7)
    found, some = tally(held, 77, random(0))
    wanted, any_two = dense(held)
    for pair, each in found.items():
        said = share([each])
        assert said == Share(value=said.value, low=said.value, high=said.value, exact=True)
        assert abs(said.value - wanted[pair]) < 1e-12
    assert abs(share([some]).value - any_two) < 1e-12


def test_intervals_hold_the_dense_value_as_often_as_they_say() -> None:
    inside = total = 0
    for seed in range(60):
        held = parts(seed, 3)
        found, some = tally(held, 500, random(seed))
        wanted, any_two = dense(held)
        for each, value in [*((found[p], wanted[p]) for p in wanted), (some, any_two)]:
            said = share([each])
            assert not said.exact
            assert said.high - said.low < 0.1
            inside, total = inside + (said.low <= value <= said.high), total + 1
    assert 0.92 <= inside / total <= 0.98


def test_weights_of_different_size_add_up_by_size() -> None:
    inside = 0
    for seed in range(100):
        small, large = parts(seed, 2, 20, 20), parts(seed + 1000, 2, 90, 80)
        large = [large[0], large[1].scaled(-1.0)]
        pooled = [tally(held, 300, random(seed))[0][0, 1] for held in (small, large)]
        sums = [dense(held)[0][0, 1] * size for held, size in ((small, 400), (large, 7200))]
        said = share(pooled)
        inside += said.low <= sum(sums) / 7600 <= said.high
    assert 90 <= inside <= 100


def test_a_sample_of_no_conflict_still_has_an_interval() -> None:
    held = parts(5, 1) * 2
    found, _ = tally(held, 1000, random(1))
    said = share([found[0, 1]])
    assert said.value == 0
    assert said.low == 0
    assert 0.001 < said.high < 0.01


def test_zero_has_no_sign() -> None:
    one = Factors(np.array([[1.0], [0.0]]), np.array([[1.0, -1.0]]))
    noise = Factors(np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 1.0]]) / 3)
    found, _ = tally([one, one.scaled(-1.0)], 4, random(0))
    assert found[0, 1] == Tally(2, 4, 4)
    assert tally([one, noise], 4, random(0))[0][0, 1].hits == 0


@pytest.mark.parametrize("gauge", [np.diag([1e6, 1.0, 1e-6]), np.eye(3)[::-1] * 0.1])
def test_a_gauge_changes_nothing(gauge: np.ndarray) -> None:
    held = parts(9, 2)
    turned = [Factors(p.up @ np.linalg.inv(gauge), gauge @ p.down) for p in held]
    assert tally(held, 400, random(3)) == tally(turned, 400, random(3))
