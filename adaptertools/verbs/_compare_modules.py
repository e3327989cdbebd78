"""Compare the updates of one module, and gather what holds over all modules.

Everything comes from the factors: products of Gram matrices, and thin decompositions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from adaptertools.update.angles import angles, effective_rank, overlap
from adaptertools.update.factors import Factors, Thin, cat
from adaptertools.update.signs import Tally, share, tally
from adaptertools.verbs._compare_parts import Compared, Overall, Pair, Subspaces

if TYPE_CHECKING:
    from adaptertools.update import Array

NEAR = 0.999  # cosine from which two adapters are near-duplicates


@dataclass(slots=True)
class Running:
    """What is added up over modules for two adapters, or for all."""

    common: int = 0
    dot: float = 0.0
    gap: float = 0.0  # ‖a − b‖²
    same: bool = True  # factor by factor
    left: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    conflict: list[Tally] = field(default_factory=list)


class Sums:
    """Everything that is added up over modules."""

    def __init__(self, count: int) -> None:
        """Take the number of adapters."""
        self.squares = [0.0] * count
        self.ranks = [0] * count
        self.pairs = {pair: Running() for pair in combinations(range(count), 2)}
        self.conflict: list[Tally] = []

    def add(
        self, target: str, held: Sequence[Factors | None], samples: int, seed: int
    ) -> Compared:  # fmt: skip
        """Compare one module, and add it up; None stands for an adapter that has it not."""
        there = [i for i, part in enumerate(held) if part is not None]
        parts = [part for part in held if part is not None]
        thins = [part.svd() for part in parts]
        squares = [float((thin.s**2).sum()) for thin in thins]
        for i, thin, square in zip(there, thins, squares, strict=True):
            self.squares[i] += square
            self.ranks[i] = max(self.ranks[i], thin.rank)
        counts, some = tally(parts, samples, _dice(target, seed))
        pairs = []
        dots = 0.0
        for x, y in combinations(range(len(parts)), 2):
            dots += (dot := parts[x].dot(parts[y]))
            at = there[x], there[y]
            pairs.append(pair := _pair(at, thins[x], thins[y], dot, counts[x, y]))
            _note(self.pairs[at], parts[x], parts[y], dot, pair, counts[x, y])
        if len(parts) > 1:
            self.conflict.append(some)
        self._alone(held, dict(zip(there, squares, strict=True)))
        return Compared(
            target=target, shape=parts[0].shape, pairs=tuple(pairs),
            norms=_spread(held, [square**0.5 for square in squares]),
            ranks=_spread(held, [thin.rank for thin in thins]),
            effective_ranks=_spread(held, [effective_rank(thin.s) for thin in thins]),
            energy=energy(squares, dots), conflict=share([some]) if len(parts) > 1 else None,
        )  # fmt: skip

    def _alone(self, held: Sequence[Factors | None], squares: dict[int, float]) -> None:
        """Where only one of two has a module, all of it is between them."""
        for (a, b), running in self.pairs.items():
            if (held[a] is None) != (held[b] is None):
                running.gap += squares.get(a, 0.0) + squares.get(b, 0.0)
                running.same = False

    def overall(self, a: int, b: int, tolerance: float) -> Overall:
        """Say how two adapters relate; `tolerance` is what rounding their factors can do."""
        run, one, two = self.pairs[a, b], self.squares[a], self.squares[b]
        cosine = _cosine(run.dot, one, two)
        distance = (run.gap / largest) ** 0.5 if (largest := max(one, two)) else 0.0
        return Overall(
            a=a, b=b, common=run.common, cosine=cosine, left=_mean(run.left), distance=distance,
            right=_mean(run.right), energy=energy([one, two], run.dot),
            conflict=share(run.conflict) if run.conflict else None,
            likeness=_likeness(run.same, distance, cosine, tolerance),
        )  # fmt: skip

    @property
    def energy(self) -> float | None:
        """The energy ratio of the sum of all."""
        return energy(self.squares, sum(run.dot for run in self.pairs.values()))


def energy(squares: Sequence[float], dots: float) -> float | None:
    """Give ‖Σ‖² / Σ‖·‖², from the squares of the norms and the products of each two."""
    total = sum(squares)
    return max(1 + 2 * dots / total, 0.0) if total else None


def _note(run: Running, one: Factors, two: Factors, dot: float, pair: Pair, count: Tally) -> None:
    import numpy as np

    run.common += 1
    run.dot += dot
    run.gap += cat([one, two.scaled(-1.0)]).norm() ** 2
    same = np.array_equal(one.up, two.up) and np.array_equal(one.down, two.down)
    run.same = run.same and same
    run.conflict.append(count)
    if pair.left and pair.right:
        run.left.append(pair.left.overlap)
        run.right.append(pair.right.overlap)


def _pair(at: tuple[int, int], one: Thin, two: Thin, dot: float, count: Tally) -> Pair:
    squares = float((one.s**2).sum()), float((two.s**2).sum())
    alive = bool(one.rank and two.rank)
    return Pair(
        a=at[0], b=at[1], cosine=_cosine(dot, *squares), energy=energy(squares, dot),
        left=_subspaces(one.u, two.u) if alive else None,
        right=_subspaces(one.vt.T, two.vt.T) if alive else None, conflict=share([count]),
    )  # fmt: skip


def _subspaces(one: Array, two: Array) -> Subspaces:
    import numpy as np

    found = np.degrees(angles(one, two))
    return Subspaces(
        overlap=overlap(one, two), smallest=float(found[0]), median=float(np.median(found)),
        largest=float(found[-1]),
    )  # fmt: skip


def _cosine(dot: float, one: float, two: float) -> float | None:
    size = (one * two) ** 0.5
    return max(min(dot / size, 1.0), -1.0) if size else None


def _likeness(same: bool, distance: float, cosine: float | None, tolerance: float) -> str:
    if cosine is None:
        return ""
    if distance <= tolerance:
        return "equal" if same else "gauge"
    return "near" if cosine >= NEAR else "opposite" if cosine <= -NEAR else ""


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _spread(held: Sequence[Factors | None], values: Sequence[Any]) -> tuple[Any, ...]:
    """Put the values of those that are there at their places."""
    left = iter(values)
    return tuple(None if part is None else next(left) for part in held)


def _dice(target: str, seed: int) -> Any:
    """Give a generator that only the module's name and the seed decide."""
    import numpy as np

    digest = hashlib.sha256(f"compare {seed} {target}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
