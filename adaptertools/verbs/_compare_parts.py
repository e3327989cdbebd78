"""What a comparison says: of each adapter, of each module, and of each two adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adaptertools.report import Finding, plain
from adaptertools.update.signs import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the adapters that are compared."""

    ref: str
    base: str | None
    method: str
    modules: int
    norm: float  # of all its updates together, Frobenius
    rank: int  # the largest numerical rank of a module


@dataclass(frozen=True, slots=True, kw_only=True)
class Subspaces:
    """How two updates' column or row spaces lie: principal angles, in degrees."""

    overlap: float  # ‖PᵀQ‖² / min(ranks): 1 where one holds the other
    smallest: float
    median: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two updates of one module; None where one of them is zero."""

    a: int  # positions of the adapters
    b: int
    cosine: float | None
    left: Subspaces | None  # of what they write to: the columns of ΔW
    right: Subspaces | None  # of what they read from: the rows of ΔW
    energy: float | None  # ‖a + b‖² / (‖a‖² + ‖b‖²): below 1 they cancel, above they pile up
    conflict: Share  # entries that they pull in opposite directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One module, of those adapters that have it; None where an adapter has it not."""

    target: str
    shape: tuple[int, int]
    norms: tuple[float | None, ...]
    ranks: tuple[int | None, ...]
    effective_ranks: tuple[float | None, ...]
    energy: float | None  # ‖Σ‖² / Σ‖·‖²
    conflict: Share | None  # entries on which any two disagree; None where one adapter has it
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """Two adapters over all modules; where one lacks a module, its update there is zero."""

    a: int
    b: int
    common: int  # modules that both have
    cosine: float | None
    left: float | None  # mean overlap over the common modules
    right: float | None
    energy: float | None
    conflict: Share | None  # over the common modules
    distance: float  # ‖a − b‖ / max(‖a‖, ‖b‖)
    likeness: str  # "", "equal", "gauge", "near", "opposite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How adapters relate. None is unknown, or not defined."""

    adapters: tuple[Side, ...]
    pairs: tuple[Overall, ...]
    energy: float | None  # of the sum of all of them
    conflict: Share | None
    modules: tuple[Compared, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """A comparison finds nothing wrong."""
        return True

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/compare.schema.json describes."""
        value: dict[str, Any] = plain(self)
        return value
