"""How several updates of one weight become one. A file here is a `--how`; its name, with `-`.

Each file has TITLE, one line for lists; KEEPS, what of PROPERTIES holds for it (the tests go by
it); and `blend(parts, weights, options)`. The weight multiplies the update, sign included, before
anything else happens, except where SHARES is set: there the sign turns the update round, and the
sizes of the weights are normalised to shares, because the formula is that of a mean.

Factored ones are exact. Entry-wise ones (`_entrywise.py`) give full rank in general: they return
`Sketched` factors, which also know the norm of what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adaptertools import plugins
from adaptertools.errors import Unsupported
from adaptertools.update.factors import Factors

if TYPE_CHECKING:
    from adaptertools.update import Array

PROPERTIES = {
    "additive": "linear in the weights: blend(v + c·w) = blend(v) + c·blend(w)",
    "multiplies": "the weight multiplies the update: (A; w) is (w·A; 1)",
    "homogeneous": "all updates times c > 0 is the result times c",
    "odd": "all weights negated is the result negated",
    "identity": "one adapter with weight 1 is itself",
    "halves": "(A; ½, A; ½) is A",
    "cancels": "(A; 1, A; −1) has rank 0",
    "permutation": "the order of the adapters does not matter",
    "associative": "((A, B), C) is (A, B, C)",
    "gauge": "(GA, BG⁻¹) and zero rows and columns are the same adapter",
    "zeros": "more adapters that do nothing change nothing",
    "turns": "the blend of the transposes is the transpose",
    "rotates": "rotating the inputs or outputs of all rotates the result",
}


@dataclass(frozen=True)
class Options:
    """What some of the formulas ask for; raises Unsupported for what is out of range."""

    target: str = ""  # the module's name: with the seed it decides every random choice
    seed: int = 0
    density: float = 0.5  # share of the entries that are kept
    rank: int | None = None  # of entry-wise results; the sum of the adapters' ranks if None
    epsilon: float = 0.1  # della: how far the odds of the largest and smallest are from `density`
    gamma: float = 0.01  # breadcrumbs: share of the largest entries that goes
    common: float = 0.8  # iso-cts: share of the directions that is common to all

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise Unsupported(f"--density {self.density:g} is no share. Give one in (0, 1].")
        for name in ("gamma", "common"):
            if not 0 <= getattr(self, name) <= 1:
                raise Unsupported(f"--{name} {getattr(self, name):g} is no share from 0 to 1.")
        if self.epsilon < 0:
            raise Unsupported(f"--epsilon {self.epsilon:g} is below 0.")
        if self.rank is not None and self.rank < 0:
            raise Unsupported(f"--rank {self.rank} is below 0.")


class Blend(Protocol):
    """What a file of this room has."""

    TITLE: str
    KEEPS: frozenset[str]

    def blend(
        self, parts: Sequence[Factors], weights: Sequence[float], options: Options
    ) -> Factors:
        """Combine updates of one shape, at least one, as `weights` say."""
        ...


@dataclass(frozen=True)
class Sketched(Factors):
    """The nearest factors of a rank that were found for a matrix of full rank."""

    whole: float = 0.0  # ‖X‖ of that matrix

    def kept(self) -> float:
        """Give the share of ‖X‖² that the factors hold."""
        return (self.norm() / self.whole) ** 2 if self.whole else 1.0


def meaning(how: str) -> str:
    """Say what a weight does in a formula: a sentence for cards and reports."""
    if getattr(plugins.load("blends", how.replace("-", "_")), "SHARES", False):
        return "Weights are shares: only their ratios and their signs count."
    return "The weight multiplies the update."


def weighted(parts: Sequence[Factors], weights: Sequence[float]) -> list[Factors]:
    """Multiply each update by its weight."""
    return [part.scaled(weight) for part, weight in zip(parts, weights, strict=True)]


def nothing(parts: Sequence[Factors]) -> Factors:
    """Give an update of rank 0 of the same shape."""
    part = parts[0]
    return Factors(part.up[:, :0], part.down[:0])


def mixed(parts: Sequence[Factors], coefficients: Sequence[float] | Array) -> Factors:
    """Give Σ cᵢΔWᵢ, leaving out what has no part in it."""
    from adaptertools.update.factors import cat

    chosen = [p.scaled(float(c)) for p, c in zip(parts, coefficients, strict=True) if c != 0]
    return cat(chosen) if chosen else nothing(parts)
