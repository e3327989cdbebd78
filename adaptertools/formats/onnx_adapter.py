"""ONNX Runtime's .onnx_adapter, one file, for a model that Olive exported with factors as inputs.

Names are those of the model's inputs, without PEFT's `base_model.model.`; factors lie transposed,
lora_A (in, r) and lora_B (r, out), the scale in lora_B. Facts from Olive's convert_adapters.py,
which knows one scale only: here each module's own is folded. One rank for all, as the graph has one
dimension for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools.adapter import Adapter
from adaptertools.errors import Unsupported, first
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._modules import Module, modules, shape_for
from adaptertools.formats._onnx_adapter_file import KINDS, save
from adaptertools.tensorfile import FLOATS

if TYPE_CHECKING:
    from adaptertools.update import Array

HOLDS: frozenset[str] = frozenset()
SUFFIX = ".onnx_adapter"
NAME = f"adapter{SUFFIX}"
LACKS = "DoRA, biases, embeddings, convolutions, saved modules, token rows"
PROVED = "onnxruntime 1.32.0 (AdapterFormat, and a graph run with it)"


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write one file of float32 or float16; bfloat16, which numpy's ONNX lacks, becomes float32.

    Raises Unsupported for another dtype, a rank that is too small, and more than 2 GiB.
    """
    if ask.options:
        raise Unsupported(f"onnx_adapter has no option {first(sorted(ask.options))}.")
    ask = replace(ask, dtype=_dtype(adapter, ask.dtype))
    shape = shape_for(adapter, ask, scale=1.0, uniform=True)
    wrote = Wrote(files=[NAME], tensors=0, nbytes=0)
    lines = (line for each in modules(adapter, shape, wrote) for line in _lines(each))
    wrote.tensors, wrote.nbytes = save(draft / NAME, lines)
    return wrote


def _dtype(adapter: Adapter, asked: str | None) -> str | None:
    """Give the one dtype that a graph's inputs have; None where the stored one does."""
    held = {spec.dtype for entry in adapter.entries for spec in entry.parts.values()}
    if asked is None and len(held) == 1 and held <= KINDS.keys():
        return None
    code = asked or ("F64" if "F64" in held else "F32")
    if code not in KINDS:
        raise Unsupported(
            f"{FLOATS[code]}: the inputs of an ONNX model with adapters are "
            f"{' or '.join(FLOATS[known] for known in KINDS)}. Pass the model's as --dtype."
        )
    return code


def _lines(module: Module) -> Iterator[tuple[str, str, Array]]:
    """Give both factors by their input's name."""
    for role, values in (("lora_A", module.down.T), ("lora_B", module.up.T)):
        code = "F16" if values.dtype.itemsize == 2 else "F32"
        yield f"{module.target}.{role}.weight", code, values
