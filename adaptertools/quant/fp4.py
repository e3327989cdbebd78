"""FP4: a sign, two bits of exponent and one of fraction, by blocks (bitsandbytes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.packing import Packed, Writer
from adaptertools.quant import _fourbit, _stored
from adaptertools.tensorfile import TensorSpec

methods = frozenset({"bitsandbytes"})


def packed(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> dict[str, Packed]:
    """Find the FP4 weights: those with a quant_state of that name.

    Raises Unreadable where parts are missing, belong to nothing or disagree, also for what
    bitsandbytes' repacking on CPUs has damaged; Unsupported for weights that are no matrices.
    """
    return _stored.packed("fp4", tensors)


def writer(*, double_quant: bool, block_size: int) -> Writer:
    """Give the codec; raise Unsupported for a block size that bitsandbytes does not have."""
    return _fourbit.writer("fp4", double_quant, block_size)
