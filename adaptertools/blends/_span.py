"""Bases of what the updates span, cut at the numerical rank.

The published codes decompose the dense update, whose null space comes back as arbitrary vectors:
on LoRA they fill most of the result. Here only directions exist that an update has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.blends import Options
from adaptertools.blends._entrywise import Merger, dense
from adaptertools.update.factors import CUT, Factors, Thin, cat

if TYPE_CHECKING:
    from adaptertools.update import Array

# Where directions count alike, whatever their σ, those that are only there through the rounding
# of stored factors (24 bits at most) must not: σ below this share of the largest update.
LIVE = 2.0**-20


def live(thin: Thin, scale: float) -> Thin:
    """Keep the directions that are more than rounding beside `scale`."""
    return thin.truncated(int((thin.s > LIVE * scale).sum()))


def scale(parts: Sequence[Factors]) -> float:
    """Give the norm of the largest update."""
    return max(part.norm() for part in parts)


def polar(x: Array) -> Array:
    """Give PQᵀ of x = PDQᵀ, (m, k): the nearest matrix with orthonormal columns.

    Where x has less than full rank, only the directions that it has.
    """
    import numpy as np

    thin, core = np.linalg.qr(x)
    p, d, q = np.linalg.svd(core, full_matrices=False)
    keep = d > LIVE * d.max(initial=0.0)
    nearest: Array = thin @ (p[:, keep] @ q[keep])
    return nearest


def column_basis(parts: Sequence[Factors]) -> Array:
    """Give the left singular vectors (m, R) of [ΔW₁ … ΔW_K], from thin QRs."""
    import numpy as np

    whole = cat(parts)
    thin, inner = np.linalg.qr(whole.up)
    cores, start = [], 0
    for part in parts:
        outer = np.linalg.qr(part.down.T)[1]
        cores.append(inner[:, start : start + part.rank] @ outer.T)
        start += part.rank
    x, values, _ = np.linalg.svd(np.concatenate(cores, axis=1), full_matrices=False)
    found: Array = thin @ x[:, values > CUT * whole.bound()]
    return found


def in_basis(merger: Merger, parts: Sequence[Factors], options: Options) -> Factors:
    """Combine UᵀΔWᵢ, (R, n), entry by entry, and give U times the result."""
    basis = column_basis(parts)
    if not basis.shape[1]:
        return Factors(basis, parts[0].down[:0])
    blocks = [Factors(basis.T @ part.up, part.down) for part in parts]
    return Factors(basis, dense(blocks, merger(blocks, options)))
