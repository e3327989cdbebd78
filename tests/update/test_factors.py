"""Factored algebra against dense float64: numpy's SVD, sums and norms of the products."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from adaptertools.errors import Mismatch
from adaptertools.update.factors import Factors, Thin, cat, certificate
from tests.update.weights import over, seeds

sides, ranks = st.integers(1, 24), st.integers(0, 30)
weights = st.sampled_from([1.0, 0.0, -0.5, 0.3, 2.0])


def made(seed: int, m: int, n: int, rank: int) -> Factors:
    dice = np.random.default_rng(seed)
    return Factors(dice.normal(size=(m, rank)), dice.normal(size=(rank, n)))


def near(ours: Any, wanted: Any, size: float, tolerance: float = 1e-12) -> None:
    assert np.linalg.norm(np.asarray(ours) - wanted) <= tolerance * size


def best(dense: Any, rank: int) -> float:
    """Eckart and Young: no matrix of this rank is nearer."""
    return float(np.linalg.norm(np.linalg.svd(dense, compute_uv=False)[rank:]))


@over(m=sides, n=sides, one=ranks, two=ranks, w=weights, v=weights, seed=seeds)
def test_a_sum_is_the_dense_sum(
    m: int, n: int, one: int, two: int, w: float, v: float, seed: int
) -> None:
    a, b = made(seed, m, n, one), made(seed + 1, m, n, two)
    total = cat([a.scaled(w), b.scaled(v)])
    wanted = w * a.dense() + v * b.dense()
    size = a.bound() + b.bound()
    near(total.dense(), wanted, size)
    near(total.svd().factors().dense(), wanted, size)
    assert total.rank == one + two


@over(m=sides, n=sides, rank=ranks, seed=seeds)
def test_the_svd_is_that_of_the_product(m: int, n: int, rank: int, seed: int) -> None:
    part = made(seed, m, n, rank)
    thin, wanted = part.svd(), np.linalg.svd(part.dense(), compute_uv=False)
    assert thin.rank <= min(m, n, rank)
    near(np.pad(thin.s, (0, min(m, n) - thin.rank)), wanted, part.bound())
    near(thin.u.T @ thin.u, np.eye(thin.rank), 1 + thin.rank)
    near(thin.vt @ thin.vt.T, np.eye(thin.rank), 1 + thin.rank)
    assert all(a >= b for a, b in pairwise(thin.s))
    balanced = thin.factors()
    near(balanced.up.T @ balanced.up, balanced.down @ balanced.down.T, part.bound() or 1)


@over(m=sides, n=sides, rank=ranks, keep=ranks, seed=seeds)
def test_a_truncation_is_the_best_there_is(m: int, n: int, rank: int, keep: int, seed: int) -> None:
    part = made(seed, m, n, rank)
    thin, dense = part.svd(), part.dense()
    kept = thin.truncated(keep)
    error = float(np.linalg.norm(dense - kept.factors().dense()))
    assert error - best(dense, keep) <= 1e-10 * part.bound()
    assert kept.rank == min(keep, thin.rank)
    share = np.linalg.norm(kept.factors().dense()) ** 2 / max(np.linalg.norm(dense) ** 2, 1e-300)
    assert thin.energy(keep) == pytest.approx(share if thin.rank else 1.0, abs=1e-12)


@over(m=sides, n=sides, one=ranks, two=ranks, seed=seeds)
def test_products_and_norms(m: int, n: int, one: int, two: int, seed: int) -> None:
    a, b = made(seed, m, n, one), made(seed + 1, m, n, two)
    size = a.bound() * b.bound() or 1.0
    near(a.dot(b), np.vdot(a.dense(), b.dense()), size)
    near(a.norm(), np.linalg.norm(a.dense()), a.bound() or 1.0)
    assert a.norm() <= a.bound() * (1 + 1e-12)


@over(m=sides, n=sides, rank=ranks, start=sides, stop=sides, seed=seeds)
def test_slices_and_the_transpose(
    m: int, n: int, rank: int, start: int, stop: int, seed: int
) -> None:
    part, piece = made(seed, m, n, rank), slice(min(start, stop), max(start, stop))
    assert np.array_equal(part.turned().turned().dense(), part.dense())
    near(part.turned().dense(), part.dense().T, part.bound())
    near(part.rows(piece).dense(), part.dense()[piece], part.bound())
    near(part.columns(piece).dense(), part.dense()[:, piece], part.bound())


@over(m=sides, n=sides, rank=st.integers(1, 6), seed=seeds)
def test_what_cancels_has_no_rank(m: int, n: int, rank: int, seed: int) -> None:
    part = made(seed, m, n, rank)
    gauge = np.random.default_rng(seed + 1).normal(size=(rank, rank)) + 3 * np.eye(rank)
    other = Factors(part.up @ np.linalg.inv(gauge), gauge @ part.down)
    assert cat([part, other.scaled(-1.0)]).svd().rank == 0
    twice = cat([part.scaled(0.5), other.scaled(0.5)])
    assert twice.svd().rank == np.linalg.matrix_rank(part.dense())
    near(twice.svd().factors().dense(), part.dense(), twice.bound())


def test_a_norm_keeps_its_digits_where_parts_cancel() -> None:
    part, small = made(1, 40, 30, 4), made(2, 40, 30, 2).scaled(1e-9)
    total = cat([part, part.scaled(-1.0), small])
    assert total.norm() == pytest.approx(small.norm(), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 5, 11, 12, 40])
def test_a_certificate_proves_the_best_truncation_and_no_other(rank: int) -> None:
    parts = [made(i, 60, 45, 4).scaled(0.3 * i - 0.5) for i in range(3)]
    thin = cat(parts).svd()
    assert thin.rank == 12
    assert certificate(parts, thin, rank).holds()
    if rank < 12:
        backwards = Thin(thin.u[:, ::-1], thin.s[::-1], thin.vt[::-1])
        assert not certificate(parts, backwards, rank).holds()
        assert not certificate([*parts, made(9, 60, 45, 1)], thin, rank).holds()
    wrong = Thin(thin.u, thin.s * (1 + 1e-9), thin.vt)
    assert not certificate(parts, wrong, rank).holds()


def test_large_and_thin_against_the_dense_svd() -> None:
    parts = [made(i, 900, 500, 16).scaled(w) for i, w in enumerate((1.0, 0.5, -0.3))]
    dense = sum(part.dense() for part in parts)
    thin = cat(parts).svd()
    near(thin.factors().dense(), dense, float(np.linalg.norm(dense)), 1e-13)
    near(thin.s, np.linalg.svd(dense, compute_uv=False)[:48], float(thin.s[0]), 1e-13)


@pytest.mark.parametrize("shapes", [((3, 2), (3, 4)), ((3,), (3, 4)), ((3, 2, 1), (2, 4))])
def test_factors_without_a_product_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(Mismatch, match="no product"):
        Factors(np.ones(shapes[0]), np.ones(shapes[1]))


def test_updates_of_two_shapes_do_not_add_up() -> None:
    with pytest.raises(Mismatch, match="do not add up"):
        cat([made(1, 3, 4, 1), made(1, 4, 3, 1)])
    with pytest.raises(Mismatch, match="do not add up"):
        made(1, 3, 4, 1).dot(made(1, 4, 3, 1))
