"""Thresholds without the entries, blocks of rows, and factors of a matrix of full rank."""

from __future__ import annotations

import numpy as np
import pytest

from adaptertools import plugins
from adaptertools.blends import Sketched, _entrywise, _threshold
from adaptertools.blends._entrywise import dense
from adaptertools.blends._threshold import largest
from adaptertools.update.factors import Factors
from tests.blends.made import Array, Case, alike, blended, case, factors, near, options, regauged

ENTRYWISE = [
    how for how in plugins.names("blends") if hasattr(plugins.load("blends", how), "merger")
]
RANDOM = {"dare", "della"}


def whole(how: str, made: Case) -> Array:
    """What the formula gives, before factors are looked for."""
    module = plugins.load("blends", how)
    parts = [p.scaled(w) for p, w in zip(made.parts, made.weights, strict=True)]
    return dense(parts, module.merger(parts, options(made.shape)))


def test_the_entrywise_ones_are_these() -> None:
    assert set(ENTRYWISE) - {"knots_ties", "knots_dare"} == {
        "breadcrumbs", "dare", "della", "prune", "sce", "ties",
    }  # fmt: skip


@pytest.mark.parametrize("share", [1e-4, 0.01, 0.2, 0.5, 0.9, 0.999, 1.0])
def test_the_kth_largest_is_exact(share: float) -> None:
    part = factors(3, 700, 600, 5)  # larger than what is looked through without a sample
    assert part.up.shape[0] * part.down.shape[1] > 4 * _threshold.SAMPLE
    sizes, keep = np.abs(part.dense()), int(share * 420_000)
    limit = largest([part], keep)
    assert int((sizes >= limit).sum()) == keep
    # A little below, for whoever computes the entry in another block of rows.
    assert 1e-13 < 1 - limit / np.sort(sizes, axis=None)[-keep] < 1e-11


def test_a_sample_that_misleads_costs_a_pass_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    part = factors(3, 700, 600, 5)
    monkeypatch.setattr(
        _threshold, "_brackets", lambda *_: iter([(0.0, 1e-9), (9.0, 9.1), (0.0, np.inf)])
    )
    limit = largest([part], 1000)
    assert int((np.abs(part.dense()) >= limit).sum()) == 1000


def test_nothing_to_keep_and_more_than_there_is() -> None:
    part = factors(3, 5, 4, 2)
    assert largest([part], 0) == np.inf
    assert largest([part], 21) == 0.0


@pytest.mark.parametrize("how", [h for h in ENTRYWISE if not h.startswith("knots")])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_block_size_changes_nothing(
    how: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case(6, 61, 53, (4, 3, 5))
    wanted, found = whole(how, made), blended(how, made.parts, made.weights, rank=9)
    monkeypatch.setattr(_entrywise, "TILE", rows * 53)
    again = whole(how, made)
    assert np.array_equal(again != 0, wanted != 0)
    near(again, wanted, tolerance=1e-13)
    near(blended(how, made.parts, made.weights, rank=9), found, tolerance=1e-11)


@pytest.mark.parametrize("how", [h for h in ENTRYWISE if not h.startswith("knots")])
@pytest.mark.parametrize("rank", [4, 12])
def test_factors_are_close_to_the_best_of_their_rank(how: str, rank: int) -> None:
    made = alike(8, 3, 300, 240)
    x = whole(how, made)
    found = plugins.load("blends", how).blend(
        made.parts, made.weights, options((300, 240), rank=rank)
    )
    assert isinstance(found, Sketched)
    assert found.rank == rank
    assert found.whole == pytest.approx(np.linalg.norm(x))
    values = np.linalg.svd(x, compute_uv=False)
    best, size = np.linalg.norm(values[rank:]), np.linalg.norm(values)
    error = np.linalg.norm(x - found.dense())
    # Noise has a flat spectrum, in which there is little to find and little to lose.
    assert (error - best) / size < 3e-3
    assert found.kept() == pytest.approx((values[:rank] ** 2).sum() / size**2, abs=6e-3)


def test_what_is_of_low_rank_is_found_exactly() -> None:
    """At density 1 nothing is dropped: the plain sum comes back, also from a sketch."""
    made = case(9, 200, 150, (4, 3, 5))
    for how in ("dare", "prune"):
        found = blended(how, made.parts, made.weights, density=1.0, rank=12)
        near(found, sum(made.deltas), tolerance=1e-12)
    balanced = plugins.load("blends", "dare").blend(
        made.parts, made.weights, options((200, 150), density=1.0, rank=None)
    )
    assert balanced.rank == 12
    assert balanced.kept() == pytest.approx(1.0)


@pytest.mark.parametrize("how", [h for h in ENTRYWISE if not h.startswith("knots")])
def test_a_sketch_does_not_depend_on_the_gauge(how: str) -> None:
    made = case(10, 90, 80, (4, 3, 5))
    others = [regauged(p, i) for i, p in enumerate(made.parts)]
    wanted = blended(how, made.parts, made.weights, rank=10)
    near(blended(how, others, made.weights, rank=10), wanted, tolerance=1e-8)


def test_rank_nought_and_no_rank_at_all() -> None:
    made = case(2)
    found = plugins.load("blends", "ties").blend(
        made.parts, made.weights, options(made.shape, rank=0)
    )
    assert found.rank == 0
    assert found.kept() == 0
    empty = Factors(made.parts[0].up[:, :0], made.parts[0].down[:0])
    assert plugins.load("blends", "ties").blend([empty], [1.0], options(made.shape)).kept() == 1
