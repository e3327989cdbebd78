"""Packed weights that transformers turns as it unpacks them, under a name of its own.

MXFP4 of gpt-oss (transformers 5.23, integrations/mxfp4.py): X_blocks and X_scales are X, stored as
(experts, out, in) and loaded as (experts, in, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.tensorfile import TensorSpec

_BLOCK = 32  # values in the 16 bytes of the last axis
Shape = tuple[int, ...]


def turned(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Give for each weight that is stored transposed the tensor that holds it.

    That is X where the tensors are logical weights, else X_blocks.
    """
    said = config.get("quantization_config")
    if not isinstance(said, dict) or said.get("quant_method") != "mxfp4":
        return {}
    names = (n.removesuffix("_scales") for n in tensors if n.endswith("_scales"))
    found = {n: next((k for k in (f"{n}_blocks", n) if k in tensors), "") for n in names}
    return {name: tensor for name, tensor in found.items() if tensor}


def shape(spec: TensorSpec) -> Shape:
    """Give the logical shape of a weight that is stored transposed."""
    *lead, groups, last = spec.shape
    return (*lead, groups * _BLOCK) if len(lead) == 2 and last * 2 == _BLOCK else spec.shape
