"""Values on their way into a GGUF file: scale folded in, and rounded once where they must be."""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp
from typing import TYPE_CHECKING

from adaptertools.errors import Unsupported, shown
from adaptertools.formats import Wrote, _gguf_blocks
from adaptertools.formats._gguf_write import Line
from adaptertools.formats._modules import cast
from adaptertools.tensorfile import dtype_of

if TYPE_CHECKING:
    from adaptertools.update import Array

_NEAR = 2.0**-23  # what the rounding of alpha to float32 can be off by
_KEPT = ("F32", "F16", "BF16")
KINDS = (*_KEPT, "Q8_0")


def folded(up: Array, factor: float, target: str, wrote: Wrote) -> Array:
    """Multiply by what alpha / r leaves of the scale: by 1 not at all, by 2ⁿ without rounding."""
    if abs(factor - 1.0) <= _NEAR:
        wrote.error = max(wrote.error, abs(factor - 1.0))
        return up
    wrote.folded.append(target)
    wide = up.astype("float64") * factor
    if abs(frexp(factor)[0]) == 0.5:
        made: Array = wide.astype(up.dtype)
        if (made.astype("float64") == wide).all():
            return made
    rounded, error = cast(wide, "F32", target)
    wrote.error = max(wrote.error, error)
    return rounded


def alike(values: Sequence[Array]) -> Sequence[Array]:
    """Give arrays one dtype that holds them all exactly: experts are stacked."""
    if len({each.dtype for each in values}) == 1:
        return values
    return [each.astype("float64").astype("float32") for each in values]


def line(name: str, values: Array, asked: str | None, wrote: Wrote) -> Line:
    """Store a tensor in its own dtype, or in the one that is asked for.

    Q8_0 is float16 where rows are no multiple of 32, as llama.cpp's converter has it. Raises
    Unsupported for other dtypes, and for values that overflow.
    """
    own = next((kind for kind in _KEPT if dtype_of(kind) == values.dtype), "F32")
    kind = asked or own
    if kind not in KINDS:
        raise Unsupported(f"GGUF adapters hold {', '.join(KINDS)}, and not {shown(kind)}.")
    if kind == "Q8_0" and values.shape[-1] % _gguf_blocks.BLOCK:
        kind = "F16"
    if kind == "Q8_0":
        made = _gguf_blocks.packed(values)
        wrote.error = max(wrote.error, _off(values, made))
        return name, kind, values.shape, made
    if dtype_of(kind) != values.dtype:
        values, error = cast(values, kind, name)
        wrote.error = max(wrote.error, error)
    return name, kind, values.shape, values


def _off(values: Array, made: Array) -> float:
    import numpy as np

    wide = values.astype("float64")
    back = _gguf_blocks.unpacked(made).reshape(values.shape)
    norm = float(np.linalg.norm(wide))
    return float(np.linalg.norm(back - wide)) / norm if norm else 0.0
