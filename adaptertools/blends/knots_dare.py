"""U · DARE(S Vᵢᵀ): DARE on the updates as the shared basis U sees them. arXiv:2410.19735.

The basis is that of `knots-ties`; entries of UᵀΔWᵢ are dropped by chance, enlarged and added up.
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import Options, weighted
from adaptertools.blends._span import in_basis
from adaptertools.blends.dare import merger
from adaptertools.update.factors import Factors

TITLE = "DARE in the basis that the updates share"
KEEPS = frozenset({"multiplies", "homogeneous", "odd", "gauge", "zeros"})


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Change the basis, drop, rescale, add, and change back: exact, of rank R."""
    return in_basis(merger, weighted(parts, weights), options)
