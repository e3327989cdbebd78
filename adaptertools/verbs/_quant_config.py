"""The quantization_config that transformers writes for a model in 4 or 8 bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_NAMES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def bnb_config(kind: str, double_quant: bool, dtype: str, skip: Sequence[str]) -> dict[str, Any]:
    """Give what BitsAndBytesConfig.to_dict gives in transformers 5, with an explicit skip list.

    The list takes the place of transformers' own, so it names the output embedding too. `dtype` is
    the logical weights': what a 4-bit layer computes in.
    """
    four = kind != "int8"
    return {
        "_load_in_4bit": four,
        "_load_in_8bit": not four,
        "bnb_4bit_compute_dtype": _NAMES[dtype] if four else "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind if four else "fp4",
        "bnb_4bit_use_double_quant": double_quant,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": list(skip),
        "llm_int8_threshold": 6.0,
        "load_in_4bit": four,
        "load_in_8bit": not four,
        "quant_method": "bitsandbytes",
    }
