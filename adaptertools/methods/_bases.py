"""RandLoRA's sparse random bases, drawn again from the seed as PEFT does, in float32.

peft/tuners/randlora/model.py. Those that are not sparse it draws in bfloat16 or float16, whichever
the machine has, so they cannot be known from the file.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from adaptertools.methods._drawn import uniform

if TYPE_CHECKING:
    from adaptertools.update import Array


@lru_cache(maxsize=1)
def drawn(seed: int, rank: int, long: int, short: int, sparsity: float) -> tuple[Array, Array]:
    """Give A (r, 1, short) and B (long, n, r) of -1, 0 and 1, each over its deviation."""
    bases, size = -(-short // rank), rank * short
    a = _signs(uniform(seed, 0, size), sparsity)
    b = _signs(uniform(seed, size, long * bases * rank), sparsity)
    return _unit(a).reshape(rank, 1, short), _unit(b).reshape(long, bases, rank)


def _signs(values: Array, sparsity: float) -> Array:
    import numpy as np

    edge, found = 1 / (2 * sparsity), np.zeros_like(values)
    found[values < np.float32(edge)] = -1
    found[values > np.float32(1 - edge)] = 1
    return found


def _unit(values: Array) -> Array:
    import numpy as np

    # torch sums the squares in float64 and rounds the deviation to float32.
    found: Array = values / np.float32(values.std(dtype=np.float64, ddof=1))
    return found
