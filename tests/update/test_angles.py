"""Angles between subspaces, against their definition and against bases made at known angles."""

import numpy as np
from hypothesis import strategies as st

from adaptertools.update.angles import angles, effective_rank, overlap
from tests.update.weights import over, seeds


def basis(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, columns)))[0]


@over(seed=seeds, one=st.integers(1, 6), two=st.integers(1, 6))
def test_cosines_are_singular_values_of_the_product(seed: int, one: int, two: int) -> None:
    p, q = basis(seed, 12, one), basis(seed + 1, 12, two)
    found = angles(p, q)
    assert np.allclose(np.cos(found), np.linalg.svd(p.T @ q, compute_uv=False), atol=1e-12)
    assert (np.diff(found) >= 0).all()
    assert np.allclose(found, angles(q, p), atol=1e-12)
    projected = np.linalg.norm(p @ p.T @ q) ** 2 / min(one, two)
    assert abs(overlap(p, q) - projected) < 1e-12


def test_known_angles_down_to_where_cosines_see_nothing() -> None:
    wanted = np.array([1e-12, 1e-9, 1e-5, 0.3, 1.2, np.pi / 2])
    frame = basis(3, 40, 12)
    p = frame[:, :6]
    q = p * np.cos(wanted) + frame[:, 6:] * np.sin(wanted)
    turn = basis(4, 6, 6)  # another basis of the same subspace
    assert np.allclose(angles(p, q @ turn), wanted, rtol=1e-3, atol=1e-15)


def test_the_whole_space_and_nothing() -> None:
    p = basis(0, 8, 3)
    assert angles(p, p @ basis(1, 3, 3)).max() < 1e-14
    assert 1 - 1e-14 < overlap(p, np.eye(8)) <= 1
    assert overlap(p, np.zeros((8, 0))) == 0.0
    assert angles(p, np.zeros((8, 0))).size == 0


def test_effective_rank_counts_equal_values_and_nothing_else() -> None:
    assert abs(effective_rank(np.full(5, 3.0)) - 5) < 1e-12
    assert abs(effective_rank(np.array([2.0, 0.0])) - 1) < 1e-12
    assert effective_rank(np.zeros(3)) == 0
    values = np.array([4.0, 2.0, 1.0])
    shares = values / 7
    assert abs(effective_rank(values) - np.exp(-np.sum(shares * np.log(shares)))) < 1e-12
