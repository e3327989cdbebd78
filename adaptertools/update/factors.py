"""Updates as float64 factors: sums, products, norms and the SVD, none of which forms m × n.

ΔW = up · down. Concatenation of factors is the sum, exactly. For the SVD, thin QRs take the factors
apart: up = Q₁R₁, downᵀ = Q₂R₂, and with R₁R₂ᵀ = XSYᵀ (R × R) it is ΔW = (Q₁X) S (Q₂Y)ᵀ. Gram
matrices are only multiplied, never decomposed: that would square the condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from adaptertools.errors import Mismatch

if TYPE_CHECKING:
    from adaptertools.update import Array

CUT = 2.0**-46  # 64 float64 roundings, relative to Σ ‖up_k‖‖down_k‖: what a sum can be off by
_SWEEPS, _PROBES = 24, 4  # power iterations of the certificate, and vectors in each


@dataclass(frozen=True)
class Factors:
    """up (m, r) · down (r, n), float64, with the scale and the weight folded in."""

    up: Array
    down: Array

    def __post_init__(self) -> None:
        if self.up.ndim != 2 or self.down.ndim != 2 or self.up.shape[1] != self.down.shape[0]:
            raise Mismatch(
                f"Factors of {self.up.shape} and {self.down.shape} have no product: expected "
                "(m, r) and (r, n)."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        """The inner dimension, which is at least the rank of the product."""
        return int(self.down.shape[0])

    def scaled(self, weight: float) -> Factors:
        """Give weight · ΔW."""
        return self if weight == 1.0 else Factors(self.up * weight, self.down)

    def turned(self) -> Factors:
        """Give ΔWᵀ."""
        return Factors(self.down.T, self.up.T)

    def rows(self, part: slice) -> Factors:
        """Give some rows of ΔW: those of `up`."""
        return Factors(self.up[part], self.down)

    def columns(self, part: slice) -> Factors:
        """Give some columns of ΔW: those of `down`."""
        return Factors(self.up, self.down[:, part])

    def dense(self) -> Array:
        """Give the product, (m, n)."""
        product: Array = self.up @ self.down
        return product

    def dot(self, other: Factors) -> float:
        """Give ⟨ΔW, other⟩ = Σ (up₁ᵀup₂) ∘ (down₁down₂ᵀ)."""
        _alike([self, other])
        return float(((self.up.T @ other.up) * (self.down @ other.down.T)).sum())

    def bound(self) -> float:
        """Give Σ ‖up_k‖‖down_k‖, which ‖ΔW‖ cannot exceed; what rounding is measured against."""
        import numpy as np

        return float(np.linalg.norm(self.up, axis=0) @ np.linalg.norm(self.down, axis=1))

    def norm(self) -> float:
        """Give ‖ΔW‖, Frobenius."""
        import numpy as np

        square = self.dot(self)
        if square > 1e-8 * self.bound() ** 2:
            return float(square**0.5)
        # Parts cancel: the square has lost half of the digits.
        return float(np.linalg.norm(self.svd().s))

    def svd(self, cut: float = CUT) -> Thin:
        """Decompose, without what is below `cut` of Σ ‖up_k‖‖down_k‖: the numerical rank.

        The cut is relative to the parts, not to σ₁: where parts cancel, all that is left may be
        rounding.
        """
        import numpy as np

        if self.rank >= min(self.shape):
            left, values, right = np.linalg.svd(self.dense(), full_matrices=False)
        else:
            (one, inner), (two, outer) = np.linalg.qr(self.up), np.linalg.qr(self.down.T)
            x, values, y = np.linalg.svd(inner @ outer.T)
            left, right = one @ x, y @ two.T
        keep = int((values > cut * self.bound()).sum())
        return Thin(left[:, :keep], values[:keep], right[:keep])


@dataclass(frozen=True)
class Thin:
    """u (m, k), s (k,), vt (k, n): orthonormal columns, values that fall, orthonormal rows."""

    u: Array
    s: Array
    vt: Array

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product."""
        return self.u.shape[0], self.vt.shape[1]

    @property
    def rank(self) -> int:
        """How many values there are."""
        return len(self.s)

    def truncated(self, rank: int) -> Thin:
        """Keep the largest values: the nearest matrix of that rank (Eckart and Young)."""
        return Thin(self.u[:, :rank], self.s[:rank], self.vt[:rank])

    def energy(self, rank: int) -> float:
        """Give the share of Σσ² in the largest values; 1 where there is nothing."""
        squares = self.s**2
        return float(squares[:rank].sum() / squares.sum()) if squares.any() else 1.0

    def factors(self) -> Factors:
        """Share the values out evenly: up = U·S^½, down = S^½·Vᵀ."""
        root = self.s**0.5
        return Factors(self.u * root, root[:, None] * self.vt)


def cat(parts: Sequence[Factors]) -> Factors:
    """Add updates by concatenating their factors; at least one.

    Raises Mismatch where shapes differ.
    """
    import numpy as np

    _alike(parts)
    if len(parts) == 1:
        return parts[0]
    return Factors(
        np.concatenate([p.up for p in parts], axis=1),
        np.concatenate([p.down for p in parts], axis=0),
    )


def _alike(parts: Sequence[Factors]) -> None:
    """Raise Mismatch unless all are of one shape."""
    for part in parts[1:]:
        if part.shape != parts[0].shape:
            raise Mismatch(f"Updates of {parts[0].shape} and {part.shape} do not add up.")


class Certificate(NamedTuple):
    """What proves that a truncation is the best: the first two are 0, residual ≤ smallest.

    With R = ΔW − U_k S_k V_kᵀ, all relative to Σ ‖up_k‖‖down_k‖ of the parts; 0 if that is 0.
    """

    left: float  # ‖U_kᵀR‖
    right: float  # ‖RV_k‖
    residual: float  # ‖R‖₂, by power iteration
    smallest: float  # σ_k, or 0 where nothing was truncated

    def holds(self, tolerance: float = 1e-12) -> bool:
        """Tell whether it proves so, up to rounding."""
        left, right, residual, smallest = self
        return max(left, right, residual - smallest) <= tolerance


def certificate(parts: Sequence[Factors], thin: Thin, rank: int) -> Certificate:
    """Check a truncation of the sum of `parts`, by products with thin matrices alone."""
    import numpy as np

    kept, whole = thin.truncated(rank), cat(parts)
    residual = Factors(
        np.concatenate([whole.up, kept.u * -kept.s], axis=1),
        np.concatenate([whole.down, kept.vt], axis=0),
    )
    scale = whole.bound() or 1.0
    left = (kept.u.T @ residual.up) @ residual.down
    right = residual.up @ (residual.down @ kept.vt.T)
    probes = np.random.Generator(np.random.Philox(0)).normal(size=(whole.shape[1], _PROBES))
    probes, norm = np.linalg.qr(probes)[0], 0.0
    for _ in range(_SWEEPS):
        seen = residual.up @ (residual.down @ probes)
        norm = float(np.linalg.norm(seen, 2))
        probes = np.linalg.qr(residual.down.T @ (residual.up.T @ seen))[0]
    smallest = float(kept.s[-1]) if 0 < kept.rank < thin.rank else 0.0
    return Certificate(
        float(np.linalg.norm(left)) / scale,
        float(np.linalg.norm(right)) / scale,
        norm / scale,
        smallest / scale,
    )
