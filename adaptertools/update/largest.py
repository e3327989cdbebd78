"""The largest singular components of a matrix that is in memory: the nearest of a lower rank.

Three ways, by what is asked:
- dense: LAPACK's SVD, where the shorter side is at most 1024. Exact to rounding.
- krylov: for few of many components. An orthonormal basis Q of the blocks D·Ω, (DDᵀ)D·Ω, … grows
  until a pass over D adds less than 1e-11 of ‖D‖² to what the components hold (Musco and Musco,
  arXiv:1504.05477; the bound needs no gap between singular values). QᵀD is decomposed exactly.
- gram: for many components, or where a share of energy decides. Eigenvectors of DᵀD, whose error is
  relative to σ₁², so that half of the digits are lost: what is below 1e-8·σ₁ cannot be told from
  zero. Of the energy no more than about 1e-15 is lost by that; and D is projected on the
  eigenvectors and decomposed once more, so that values and vectors that are kept have all digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.update.factors import Thin

if TYPE_CHECKING:
    from adaptertools.update import Array

DENSE = 1024  # shorter side up to which LAPACK decomposes the whole
FEW = 64  # components that are looked for first, where nobody knows how many are needed
_MORE = 8  # columns of a block beyond the rank
_GROWTH = 1e-11  # of ‖D‖²: less than that in one pass ends the search
_EPS = 2.0**-52

# How many components to keep, of values that fall and ‖D‖²; more than there are asks for more.
Keep = Callable[["Array", float], int]


@dataclass(frozen=True)
class Largest:
    """Components that are kept, and how they were found."""

    thin: Thin
    method: str  # "dense", "krylov", "gram"
    total: float  # ‖D‖², Frobenius


def largest(matrix: Array, rank: int | None, keep: Keep) -> Largest:
    """Decompose a float64 matrix, and keep what `keep` says; `rank` is an upper bound, if any.

    Takes up to four times the memory of the matrix. What is rounding of the matrix itself
    (max(m, n)·ε·σ₁) is never kept.
    """
    if matrix.shape[0] < matrix.shape[1]:
        found = largest(matrix.T, rank, keep)
        thin = Thin(found.thin.vt.T, found.thin.s, found.thin.u.T)
        return Largest(thin, found.method, found.total)
    total = _square(matrix)
    thin, method = _found(matrix, rank, keep, total)
    floor = max(matrix.shape) * _EPS * float(thin.s.max(initial=0.0))
    most = thin.rank if rank is None else rank
    count = min(keep(thin.s, total), int((thin.s > floor).sum()), most)
    return Largest(thin.truncated(count), method, total)


def top(matrix: Array, rank: int) -> Thin:
    """Give the `rank` largest components, to rounding: dense, or by the Gram matrix if it is large.

    What the latter loses, it loses of values far below σ₁, which are not among the largest.
    """
    if matrix.shape[0] < matrix.shape[1]:
        found = top(matrix.T, rank)
        return Thin(found.vt.T, found.s, found.u.T)
    if matrix.shape[1] <= DENSE:
        return _dense(matrix).truncated(rank)
    return _gram(matrix, rank, lambda values, total: rank, _square(matrix))


def _found(matrix: Array, rank: int | None, keep: Keep, total: float) -> tuple[Thin, str]:
    """Choose the way, and give at least as many components as are kept."""
    side, few = matrix.shape[1], FEW if rank is None else rank
    if side <= DENSE:
        return _dense(matrix), "dense"
    if few + _MORE <= side // 16:
        thin = _krylov(matrix, few, keep, total, open_ended=rank is None)
        if thin is not None:
            return thin, "krylov"
    return _gram(matrix, rank, keep, total), "gram"


def _square(matrix: Array) -> float:
    """Give ‖D‖² without an array of its size."""
    return float(sum(row @ row for row in matrix))


def _dense(matrix: Array) -> Thin:
    import numpy as np

    return Thin(*np.linalg.svd(matrix, full_matrices=False))


def _gram(matrix: Array, rank: int | None, keep: Keep, total: float) -> Thin:
    import numpy as np

    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    values = squares[::-1].clip(min=0) ** 0.5
    count = min(keep(values, total), len(values) if rank is None else rank)
    chosen = vectors[:, ::-1][:, :count]
    left, inner = np.linalg.qr(matrix @ chosen)
    x, s, y = np.linalg.svd(inner)
    return Thin(left @ x, s, y @ chosen.T)


def _krylov(matrix: Array, rank: int, keep: Keep, total: float, *, open_ended: bool) -> Thin | None:
    """Search in growing subspaces, until what is kept has settled.

    None where a quarter of the side was not enough, or where more than `rank` are wanted: what is
    found of a value is never above it.
    """
    import numpy as np

    rows, side = matrix.shape
    block = rank + _MORE
    most = side // 4 // block * block
    basis, seen = np.empty((rows, most)), np.empty((most, side))
    start = np.random.Generator(np.random.Philox(0)).normal(size=(side, block))
    before, done = 0.0, 0
    while done + block <= most:
        step = matrix @ (start if not done else seen[done - block : done].T)
        for _ in range(3):  # twice is enough, and once more where a block was short of rank
            step -= basis[:, :done] @ (basis[:, :done].T @ step)
            step = np.linalg.qr(step)[0]
        basis[:, done : done + block] = step
        np.matmul(basis[:, done : done + block].T, matrix, out=seen[done : done + block])
        done += block
        right, inner = np.linalg.qr(seen[:done].T)
        x, s, y = np.linalg.svd(inner.T)
        count = keep(s[:rank], total)
        if open_ended and count > rank and done > block:
            return None
        now = float((s[: min(count, rank)] ** 2).sum())
        if done > block and now - before <= _GROWTH * total:
            return Thin(basis[:, :done] @ x[:, :rank], s[:rank], y[:rank] @ right.T)
        before = now
    return None
