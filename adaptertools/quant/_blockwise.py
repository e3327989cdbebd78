"""Scales in 8 bits: double quantisation, 256 scales sharing one scale and all of them an offset.

As bitsandbytes' quantize_blockwise and dequantize_blockwise on the CPU (functional.py and
csrc/cpu_ops.cpp, 0.50.2), on its "dynamic" map (arXiv:1511.04561).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from adaptertools.errors import Unsupported
from adaptertools.quant._state import NESTED

if TYPE_CHECKING:
    from adaptertools.update import Array

_PLACES = 65536  # of the table that a value is looked up in, from -1 to 1


@cache
def dynamic_map() -> Array:
    """Give the 256 values of the dynamic map, float32, ascending (create_dynamic_map)."""
    import numpy as np

    values: list[Array] = [np.zeros(1, np.float32), np.ones(1, np.float32)]
    for exponent in range(7):
        edges = _between(2**exponent + 1)
        means = (edges[:-1] + edges[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (exponent - 6)) * means
        values += [scaled, -scaled]
    found = np.sort(np.concatenate(values))
    found.flags.writeable = False
    return found


def _between(count: int) -> Array:
    """Give `count` float32 from 0.1 to 1 at equal steps, as torch.linspace on a CPU with AVX2.

    It steps from either end, and rounds each product and sum at once.
    """
    import numpy as np

    low, high = np.float32(0.1), np.float32(1)
    step = np.float64((high - low) / np.float32(count - 1))
    at = np.arange(count)
    found = np.where(at < count // 2, low + step * at, high - step * at[::-1])
    return found.astype(np.float32)


@cache
def _places() -> Array:
    """Give the code of the value nearest to each place of the table."""
    import numpy as np

    values = dynamic_map()
    places = np.arange(_PLACES, dtype=np.float32)
    places = np.float32(-1) + np.float32(2) * places / np.float32(_PLACES - 1)
    return np.searchsorted((values[:-1] + values[1:]) / 2, places, "left").astype(np.uint8)


def compress(scales: Array) -> tuple[Array, Array, float]:
    """Quantise float32 scales: codes (uint8, as many), their scales (float32), the offset.

    Raises Unsupported where torch is missing: bitsandbytes takes the offset from torch's mean,
    whose order of summation is torch's own, and with another offset come other codes. Also where
    the mean is not finite, for then no scale would be.
    """
    import numpy as np

    offset = _mean(scales)
    if not np.isfinite(offset):
        raise Unsupported(
            f"The mean of {len(scales)} scales is {offset}, and double quantisation would make all "
            "of them that. The weights are too large, or not finite; leave out --double-quant."
        )
    blocks = -(-len(scales) // NESTED)
    padded = np.zeros(blocks * NESTED, np.float32)
    padded[: len(scales)] = scales - np.float32(offset)
    values = padded.reshape(blocks, NESTED)
    absmax = np.abs(values).max(axis=1)
    with np.errstate(all="ignore"):
        t = values * (np.float32(1) / absmax)[:, None]
        np.clip(t, -1, 1, out=t)
        t = (t + np.float32(1)) * np.float32(0.5) * np.float32(_PLACES - 1) + np.float32(0.5)
        # Zeros of an all-zero block become 0 · ∞, and the library gives those the code 0.
        codes = np.where(np.isnan(t), 0, _places().take(np.nan_to_num(t).astype(np.int64)))
    return codes.reshape(-1)[: len(scales)].astype(np.uint8), absmax, offset


def _mean(scales: Array) -> float:
    try:
        import torch  # noqa: TID251  # for the order in which it sums, see compress
    except ImportError:
        raise Unsupported(
            "Double quantisation as bitsandbytes does it needs torch, which is not installed. "
            "Run pip install 'adaptertools[models]', or leave out --double-quant."
        ) from None
    return float(torch.tensor(scales).mean().item())


def expand(codes: Array, values: Array, absmax: Array, offset: float, dtype: str) -> Array:
    """Give the scales, float32, of codes on the map `values`; `dtype` is the nested_dtype.

    In a 16-bit dtype product, offset and sum are rounded to it, as bitsandbytes' tensors are.
    """
    import numpy as np

    found: Array = values.take(codes)
    found *= np.repeat(absmax, NESTED)[: len(codes)]
    if dtype == "float32":
        found += np.float32(offset)
        return found
    half = _half(dtype)
    found = found.astype(half).astype(np.float32) + np.asarray(offset, half).astype(np.float32)
    return found.astype(half).astype(np.float32)


def _half(dtype: str) -> type:
    import ml_dtypes
    import numpy as np

    return ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
