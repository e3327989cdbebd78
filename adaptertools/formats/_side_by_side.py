"""Factors of several weights as those of one that holds them all, and the way back.

Side by side the inner dimensions add up, and B is block-diagonal; exact both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptertools.update import Array

Pair = tuple["Array", "Array"]  # down (r, in), up (out, r)


def joined(parts: Sequence[Pair | None], rows: Sequence[int], *, common: bool = False) -> Pair:
    """Put the parts below one another; None is a part without an update.

    With `common`, an A that all have is theirs together, and the rank stays.
    """
    import numpy as np

    there = [pair for pair in parts if pair is not None]
    one = common and all(np.array_equal(down, there[0][0]) for down, _ in there)
    down = there[0][0] if one else np.concatenate([d for d, _ in there])
    up = np.zeros((sum(rows), len(down)), there[0][1].dtype)
    row = column = 0
    for pair, count in zip(parts, rows, strict=True):
        if pair is not None:
            width = len(pair[0])
            up[row : row + count, column : column + width] = pair[1]
            column += 0 if one else width
        row += count
    return down, up


def parted(down: Array, up: Array, rows: Sequence[int]) -> list[Pair | None]:
    """Cut into parts by rows; each keeps the inner dimensions that it uses, None is none."""
    found: list[Pair | None] = []
    row = 0
    for count in rows:
        part = up[row : row + count]
        used = (part != 0).any(0)
        found.append((down[used], part[:, used]) if used.any() else None)
        row += count
    return found


def grouped(heads: int, groups: int, size: int) -> Array:
    """Give the rows of q | k | v in the order of a weight that holds them by groups of heads."""
    import numpy as np

    each = heads // groups * size
    q = np.arange(heads * size).reshape(groups, each)
    k = heads * size + np.arange(groups * size).reshape(groups, size)
    order: Array = np.concatenate([q, k, k + groups * size], axis=1).reshape(-1)
    return order
