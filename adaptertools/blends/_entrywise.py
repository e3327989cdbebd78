"""Formulas on the entries of the updates, in blocks of rows, and back to factors.

The K updates are never formed: their rows are multiplied out, combined, used and forgotten, once
for each pass. The result X has full rank in general. A subspace iteration finds its largest right
singular vectors (Halko et al., arXiv:0909.4061), starting from those of the plain sum, which an
entry-wise formula mostly adds noise to; then X ≈ (XQ)Qᵀ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from adaptertools.blends import Options, Sketched, weighted
from adaptertools.requantise import Dice
from adaptertools.update.factors import Factors, cat

if TYPE_CHECKING:
    from adaptertools.update import Array

# Rows of every update, which it may overwrite, and the first row's number, to rows of the result.
Merge = Callable[[list["Array"], int], "Array"]
Merger = Callable[[Sequence[Factors], Options], Merge]

TILE = 2**17  # entries of one update in a block: 1 MB
OVER, SWEEPS = 16, 2  # directions beyond the rank, and passes to settle them


def tiles(parts: Sequence[Factors]) -> Iterator[tuple[int, list[Array]]]:
    """Multiply out rows of all updates: the first row's number, and new arrays."""
    rows, columns = parts[0].shape
    step = max(TILE // max(columns, 1), 1)
    for row in range(0, rows, step):
        yield row, [part.up[row : row + step] @ part.down for part in parts]


def blended(
    merger: Merger, parts: Sequence[Factors], weights: Sequence[float], options: Options
) -> Sketched:
    """Weight, combine entry by entry, and find factors."""
    folded = weighted(parts, weights)
    return sketched(folded, merger(folded, options), options)


def dense(parts: Sequence[Factors], merge: Merge) -> Array:
    """Give the whole result, (m, n)."""
    import numpy as np

    return np.concatenate([merge(rows, row) for row, rows in tiles(parts)])


def sketched(parts: Sequence[Factors], merge: Merge, options: Options) -> Sketched:
    """Find the nearest factors of `options.rank` to the result, in a few passes over it."""
    import numpy as np

    m, n = parts[0].shape
    rank = sum(part.rank for part in parts) if options.rank is None else options.rank
    rank = min(rank, m, n)
    basis = _start(parts, min(rank + OVER, n), options)
    for _ in range(SWEEPS if basis.shape[1] < n else 0):
        seen = np.zeros_like(basis)
        for row, rows in tiles(parts):
            x = merge(rows, row)
            seen += x.T @ (x @ basis)
        basis = np.linalg.qr(seen)[0]
    left, square = np.empty((m, basis.shape[1])), 0.0
    for row, rows in tiles(parts):
        x = merge(rows, row)
        left[row : row + len(x)] = x @ basis
        square += float(np.vdot(x, x))
    found = Factors(left, basis.T).svd().truncated(rank).factors()
    return Sketched(found.up, found.down, whole=square**0.5)


def _start(parts: Sequence[Factors], width: int, options: Options) -> Array:
    """Give an orthonormal (n, width): the sum's directions, and random ones."""
    import numpy as np

    known = cat(parts).svd().vt[:width].T
    key = hashlib.sha256(f"{options.seed}\0{options.target}\0sketch".encode()).digest()
    noise = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    other = noise.normal(size=(len(known), width - known.shape[1]))
    basis: Array = np.linalg.qr(np.concatenate([known, other], axis=1))[0]
    return basis


def dice(parts: Sequence[Factors], options: Options) -> list[Dice]:
    """Give each update its own 16 random bits for every entry."""
    columns = parts[0].shape[1]
    return [Dice(f"{options.target}\0{i}", options.seed, columns) for i in range(len(parts))]


def total(rows: list[Array]) -> Array:
    """Add up, into the first."""
    for entries in rows[1:]:
        rows[0] += entries
    return rows[0]


def elected(rows: list[Array]) -> Array:
    """Give the mean of the entries whose sign is that of the entries' sum. TIES, arXiv:2306.01708.

    Where the sum is exactly 0 no sign is elected and the result is 0 (PEFT takes plus).
    """
    import numpy as np

    sign = np.sign(sum(rows))
    found, count = np.zeros_like(sign), np.zeros_like(sign)
    for entries in rows:
        agree = entries * sign > 0
        entries *= agree
        found += entries
        count += agree
    found /= np.maximum(count, 1, out=count)
    return found
