"""The modules of a LoRA as arrays, and what targets with one scale and one rank ask of them.

Orientation is PEFT's: down (r, in, *kernel), up (out, r, 1…); an embedding's down (r, vocab) and
up (dim, r).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import frexp
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Unsupported, shown
from adaptertools.formats import Ask, Wrote
from adaptertools.tensorfile import FLOATS, TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

_WIDTH = {"F64": 3, "F32": 2, "BF16": 1, "F16": 1}
_LEAST = "F32"  # what is computed is stored at least so, unless the user says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One module's tensors, ready to be stored."""

    target: str
    down: Array
    up: Array
    embedding: bool
    magnitude: Array | None
    bias: Array | None
    nested: bool

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return int(self.down.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all modules shall have; None leaves each its own."""

    scale: float | None = None
    rank: int | None = None
    dtype: str | None = None


def roles(entry: Entry) -> tuple[str, str]:
    """Name the tensors of down and up."""
    if "lora_embedding_A" in entry.parts:
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A", "lora_B"


def shape_for(
    adapter: Adapter, ask: Ask, *, scale: float | None = None, uniform: bool = False
) -> Shape:
    """Choose dtype and, for targets of one rank, the rank.

    Folding by a power of two is exact, so dtypes stay; any other factor makes float32 of all.
    Raises Unsupported for a rank that is below a module's.
    """
    rank = max(adapter.rank, ask.rank or 0) if uniform or ask.rank else None
    if ask.rank and ask.rank < adapter.rank:
        raise Unsupported(
            f"--rank {ask.rank}: modules have rank {adapter.rank}, and padding cannot shrink them. "
            f"Run `adaptertools resize ADAPTER --rank {ask.rank} --out DIR` first."
        )
    odd = any(scale is not None and not _clean(entry.scale / scale) for entry in adapter.entries)
    return Shape(scale=scale, rank=rank, dtype=ask.dtype or (_LEAST if odd else None))


def common_scale(adapter: Adapter, whole: int = 0) -> float:
    """Give the scale that most modules have, so that most are stored as they are.

    With `whole`, a rank, its alpha must be a whole number, as some readers take no other: then 1
    where it is none.
    """
    counted = Counter(entry.scale for entry in adapter.entries)
    scale = max(counted, key=lambda s: (counted[s], -s))
    if scale <= 0 or (whole and scale * whole != int(scale * whole)):
        return 1.0
    return scale


def modules(adapter: Adapter, shape: Shape, wrote: Wrote) -> Iterator[Module]:
    """Load one module after the other, scaled and padded, and note what was done to it."""
    for entry in adapter.entries:
        below, above = (entry.parts[role] for role in roles(entry))
        factor = 1.0 if shape.scale is None else entry.scale / shape.scale
        down, up = _load(below, 1.0, shape, wrote), _load(above, factor, shape, wrote)
        if factor != 1.0:
            wrote.folded.append(entry.target)
        if shape.rank and shape.rank != entry.rank:
            wrote.padded.append(entry.target)
            down, up = _padded(down, 0, shape.rank), _padded(up, 1, shape.rank)
        magnitude, bias = (
            entry.parts.get(role) for role in ("lora_magnitude_vector", "lora_B.bias")
        )
        yield Module(
            target=entry.target, down=down, up=up, embedding="lora_embedding_A" in entry.parts,
            magnitude=None if magnitude is None else _load(magnitude, 1.0, shape, wrote),
            bias=None if bias is None else _load(bias, factor, shape, wrote), nested=entry.nested,
        )  # fmt: skip


def cast(values: Array, code: str, name: str) -> tuple[Array, float]:
    """Round to a dtype, once; give how far that is off, relative to the norm.

    Raises Unsupported where a value overflows.
    """
    import numpy as np

    wide = values.astype("float64")
    with np.errstate(over="ignore"):
        made = values.astype(tensorfile.dtype_of(code))
    back = made.astype("float64")
    if not np.isfinite(back).all() and np.isfinite(wide).all():
        raise Unsupported(
            f"{shown(name)} has values that {FLOATS[code]} cannot hold. Pass --dtype float32."
        )
    norm = float(np.linalg.norm(wide))
    return made, float(np.linalg.norm(back - wide)) / norm if norm else 0.0


def _load(spec: TensorSpec, factor: float, shape: Shape, wrote: Wrote) -> Array:
    values = tensorfile.read(spec)
    code = shape.dtype or spec.dtype
    if factor == 1.0 and code == spec.dtype:
        return values
    made, error = cast(values.astype("float64") * factor, code, spec.name)
    wrote.error = max(wrote.error, error)
    return made


def _clean(factor: float) -> bool:
    """Tell a power of two, which changes exponents only."""
    return abs(frexp(factor)[0]) == 0.5


def _padded(values: Array, axis: int, rank: int) -> Array:
    import numpy as np

    room = [(0, 0)] * values.ndim
    room[axis] = (0, rank - values.shape[axis])
    # np.pad does not take bfloat16's zero for granted.
    made: Array = np.zeros([n + more for n, (_, more) in zip(values.shape, room, strict=True)],
                           values.dtype)  # fmt: skip
    made[tuple(slice(0, n) for n in values.shape)] = values
    return made
