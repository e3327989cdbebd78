"""TensorRT-LLM's pair of arrays, which its C++ runtime and Triton backend take.

`model.lora_weights.npy` (1, n, longest): of each module A (r, in), then B (out, r) with the scale
in it, one after the other, and zeros. `model.lora_config.npy` (1, n, 3) int32: module, layer, rank.
Facts from TensorRT-LLM's hf_lora_convert.py and lora_manager.py; the former knows one scale only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._modules import Module, modules, roles, shape_for
from adaptertools.tensorfile import FLOATS, dtype_of, raw_bytes

if TYPE_CHECKING:
    from adaptertools.update import Array

HOLDS: frozenset[str] = frozenset()
SUFFIX = ""
LACKS = "DoRA, biases, embeddings, heads, experts, convolutions, saved modules, token rows"
PROVED = "hf_lora_convert.py of TensorRT-LLM: the same bytes wherever one scale is enough"
WEIGHTS, CONFIG = "model.lora_weights.npy", "model.lora_config.npy"

_NAME = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:self_attn|mlp)\.([a-z_]+)$")
# lora_manager.py's LORA_MODULE_IDS, by the modules of transformers' models.
_MODULES: Mapping[str, int] = {
    "qkv_proj": 0, "query_key_value": 0, "q_proj": 1, "k_proj": 2, "v_proj": 3, "o_proj": 4,
    "dense": 4, "gate_proj": 5, "gate_up_proj": 5, "c_fc": 5, "down_proj": 6, "c_proj": 6,
    "up_proj": 7,
}  # fmt: skip
# As numpy's files say it; TensorRT-LLM takes two bytes without a type for bfloat16.
_DESCR = {"F32": "<f4", "F16": "<f2", "BF16": "|V2"}


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write both arrays, the weights in one dtype: what is stored, or float32 where that differs.

    Raises Unsupported for modules that TensorRT-LLM has no number for, and for float64.
    """
    import numpy as np

    if ask.options:
        raise Unsupported(f"trtllm has no option {first(sorted(ask.options))}.")
    places = [_place(entry) for entry in adapter.entries]
    code = _dtype(adapter, ask)
    shape = shape_for(adapter, replace(ask, dtype=code), scale=1.0)
    wrote = Wrote(files=[WEIGHTS, CONFIG], tensors=2, nbytes=0)
    rows = map(_row, modules(adapter, shape, wrote))
    ranks = [max(entry.rank, ask.rank or 0) for entry in adapter.entries]
    sizes = [_width(*each) for each in zip(adapter.entries, ranks, strict=True)]
    weights = _save(draft / WEIGHTS, rows, (1, len(sizes), max(sizes)), code)
    config = [[*place, rank] for place, rank in zip(places, ranks, strict=True)]
    np.save(draft / CONFIG, np.array([config], "<i4"))
    wrote.nbytes = weights + 12 * len(config)
    return wrote


def _place(entry: Entry) -> tuple[int, int]:
    """Give module and layer as numbers."""
    found = _NAME.search(entry.target)
    if found is None or found[2] not in _MODULES:
        raise Unsupported(
            f"{shown(entry.target)}: TensorRT-LLM's arrays have no number for it; they are for "
            f"{', '.join(_MODULES)} of layers.N. Merge the adapter into its base instead."
        )
    return _MODULES[found[2]], int(found[1])


def _dtype(adapter: Adapter, ask: Ask) -> str:
    """Choose the array's dtype: the stored one where all are of it and none needs folding."""
    held = {spec.dtype for entry in adapter.entries for spec in entry.parts.values()}
    folded = shape_for(adapter, ask, scale=1.0).dtype
    code = folded or (held.pop() if len(held) == 1 else "F64" if "F64" in held else "F32")
    if code not in _DESCR:
        raise Unsupported(
            f"{FLOATS[code]}: TensorRT-LLM's arrays are of {first(FLOATS[c] for c in _DESCR)}. "
            "Pass the engine's as --dtype."
        )
    return code


def _width(entry: Entry, rank: int) -> int:
    """Count a module's values."""
    down, up = (entry.parts[role] for role in roles(entry))
    return rank * (down.columns + up.rows)


def _row(module: Module) -> Array:
    """Give A, then B, flat; of a fused gate and up projection TensorRT-LLM has up first.

    Raises Mismatch for one that has no halves.
    """
    import numpy as np

    up = module.up
    if module.target.endswith(".gate_up_proj"):
        if len(up) % 2:
            raise Mismatch(
                f"{shown(module.target)} has {len(up)} rows, which are no gate and up projection "
                "of one size. Is it another model?"
            )
        up = np.roll(up, len(up) // 2, axis=0)
    return np.concatenate([module.down.ravel(), up.ravel()])


def _save(path: Path, rows: Iterator[Array], shape: tuple[int, int, int], code: str) -> int:
    """Write numpy's file, a row in memory at a time; give the bytes of its data."""
    from numpy.lib.format import write_array_header_1_0

    longest = shape[2] * dtype_of(code).itemsize
    with path.open("wb") as file:
        head = {"descr": _DESCR[code], "fortran_order": False, "shape": shape}
        write_array_header_1_0(file, head)
        for row in rows:
            file.write(raw_bytes(row))
            file.write(b"\0" * (longest - row.nbytes))
        file.flush()
        os.fsync(file.fileno())
    return longest * shape[1]
