"""TSV-M: U⊥ · diag(σ) · V⊥ᵀ, U⊥ and V⊥ the polar factors of all singular vectors side by side.

ΔWᵢ = UᵢΣᵢVᵢᵀ, U = [U₁ … U_K], V likewise; the nearest orthonormal matrices to both take the place
of them, so that no task writes where another does. arXiv:2412.00081; thin, as each update has only
rᵢ directions (published code keeps min(m, n)/K of a full SVD, most of them arbitrary here).
"""

from __future__ import annotations

from collections.abc import Sequence

from adaptertools.blends import PROPERTIES, Options, nothing, weighted
from adaptertools.blends._span import live, polar, scale
from adaptertools.update.factors import Factors

TITLE = "task singular vectors, made orthogonal to one another"
KEEPS = frozenset(PROPERTIES) - {"associative", "halves"}


def blend(parts: Sequence[Factors], weights: Sequence[float], options: Options) -> Factors:
    """Decompose each, orthogonalise all, and multiply."""
    import numpy as np

    folded = weighted(parts, weights)
    if not (size := scale(folded)):
        return nothing(parts)
    thins = [live(part.svd(), size) for part in folded]
    left = polar(np.concatenate([thin.u for thin in thins], axis=1))
    right = polar(np.concatenate([thin.vt for thin in thins]).T)
    values = np.concatenate([thin.s for thin in thins])
    return Factors(left * values, right.T)
