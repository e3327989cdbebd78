"""How two subspaces lie to one another.

Principal angles after Björck and Golub, Math. Comp. 27 (1973) 579: cosines are the singular values
of PᵀQ. Of a small angle the cosine has lost half of the digits, so its sine is used, a singular
value of Q − P(PᵀQ).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptertools.update import Array


def angles(one: Array, two: Array) -> Array:
    """Give the principal angles, in radians and rising; both (m, ·), of orthonormal columns."""
    import numpy as np

    if one.shape[1] < two.shape[1]:
        one, two = two, one
    if not two.shape[1]:
        return np.zeros(0)
    cosines = one.T @ two
    aside = two - one @ cosines
    found = np.linalg.svd(cosines, compute_uv=False).clip(0, 1)
    sines = np.linalg.svd(aside, compute_uv=False)[::-1].clip(0, 1)
    near: Array = np.where(found**2 > 0.5, np.arcsin(sines), np.arccos(found))
    return near


def overlap(one: Array, two: Array) -> float:
    """Give ‖PᵀQ‖² / min(ranks): 1 where one holds the other, 0 where they are orthogonal."""
    import numpy as np

    least = min(one.shape[1], two.shape[1])
    return min(float(np.linalg.norm(one.T @ two) ** 2) / least, 1.0) if least else 0.0


def effective_rank(values: Array) -> float:
    """Give e to the entropy of the singular values' shares: Roy and Vetterli, EUSIPCO 2007."""
    import numpy as np

    held = values[values > 0]
    if not len(held):
        return 0.0
    shares = held / held.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
