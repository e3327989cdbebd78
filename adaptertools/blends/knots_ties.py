"""U · TIES(S Vᵢᵀ): TIES on the updates as the shared basis U sees them. arXiv:2410.19735.

[ΔW₁ … ΔW_K] = U S [V₁ … V_K]ᵀ, so that S Vᵢᵀ = UᵀΔWᵢ, (R, n). Entries of those blocks are of one
kind for all tasks, which the entries of the updates are not; no block depends on how an update was
split into factors. Trimmed per module, where the published code ranks over all.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import Options, weighted
from adaptertools.blends._span import in_basis
from adaptertools.blends.ties import merger
from adaptertools.update.factors import Factors

TITLE = "TIES in the basis that the updates share"
KEEPS = frozenset({"multiplies", "homogeneous", "odd", "permutation", "gauge", "zeros"})


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Change the basis, trim, elect, average, and change back: exact, of rank R."""
    return in_basis(merger, weighted(parts, weights), options)
