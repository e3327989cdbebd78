"""Small updates, and what may be done to them without changing what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptertools import plugins
from adaptertools.blends import Options
from adaptertools.update.factors import Factors, cat

Array = np.ndarray[Any, Any]
HOWS = plugins.names("blends")
quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)


def factors(seed: int, m: int, n: int, rank: int) -> Factors:
    """Normal factors in float64."""
    dice = np.random.default_rng(seed)
    return Factors(dice.normal(size=(m, rank)), dice.normal(size=(rank, n)) / n**0.5)


def regauged(part: Factors, seed: int) -> Factors:
    """The same update from other factors: (GA, BG⁻¹), with one row and column of zeros."""
    dice = np.random.default_rng(seed)
    r = part.rank
    turn = np.linalg.qr(dice.normal(size=(r, r)))[0]
    gauge = turn * (1 + np.arange(r)) @ np.linalg.qr(dice.normal(size=(r, r)))[0]
    up, down = part.up @ np.linalg.inv(gauge), gauge @ part.down
    return Factors(np.pad(up, ((0, 0), (0, 1))), np.pad(down, ((0, 1), (0, 0))))


@dataclass(frozen=True)
class Case:
    """Some updates of one weight, and their weights."""

    parts: list[Factors]
    weights: list[float]
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape

    @property
    def size(self) -> float:
        """What differences are measured against."""
        return sum(
            abs(w) * np.linalg.norm(p.dense())
            for w, p in zip(self.weights, self.parts, strict=True)
        )

    @property
    def deltas(self) -> list[Array]:
        """The weighted updates, dense."""
        return [w * p.dense() for w, p in zip(self.weights, self.parts, strict=True)]


def case(seed: int, m: int = 13, n: int = 11, ranks: Sequence[int] = (3, 2, 2)) -> Case:
    """Updates with weights of both signs."""
    dice = np.random.default_rng(seed)
    parts = [factors(seed + 1 + i, m, n, rank) for i, rank in enumerate(ranks)]
    weights = dice.uniform(0.3, 1.5, len(parts)) * dice.choice([-1, 1], len(parts))
    return Case(parts, [float(w) for w in weights], seed)


def alike(seed: int, count: int, m: int = 12, n: int = 12) -> Case:
    """Updates with something in common, and positive weights."""
    shared = factors(seed, m, n, 2)
    parts = [cat([shared, factors(seed + 1 + i, m, n, 2)]) for i in range(count)]
    return Case(parts, [0.5 + 0.4 * i for i in range(count)], seed)


def cases(most: int = 3) -> Callable[..., Any]:
    """Run a test over shapes, ranks and numbers of updates."""
    sides, ranks = st.integers(5, 14), st.lists(st.integers(1, 3), min_size=1, max_size=most)
    made = st.builds(case, seed=seeds, m=sides, n=sides, ranks=ranks)
    return lambda test: quick(given(made=made)(test))


def options(shape: tuple[int, int], **given: Any) -> Options:
    """Full rank, so that entry-wise results come back whole."""
    return replace(Options(target="x.q_proj", seed=3, density=0.6, rank=min(shape)), **given)


def blended(how: str, parts: Sequence[Factors], weights: Sequence[float], **given: Any) -> Array:
    """Blend, and multiply the result out."""
    module = plugins.load("blends", how)
    assert module is not None
    found: Array = module.blend(parts, weights, options(parts[0].shape, **given)).dense()
    return found


def near(ours: Array, wanted: Array, size: float = 0.0, tolerance: float = 1e-10) -> None:
    """Fail unless both agree to `tolerance` of `size`, or of what is wanted."""
    error = np.linalg.norm(ours - wanted)
    assert error <= tolerance * (size or np.linalg.norm(wanted)), error
