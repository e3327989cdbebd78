"""How GGUF stores values: rows of q and k interleaved, and blocks of 32 with one scale (Q8_0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.formats._gguf_file import Gguf, Held
from adaptertools.tensorfile import dtype_of

if TYPE_CHECKING:
    from adaptertools.update import Array

BLOCK = 32


def interleaved(values: Array, heads: int, name: str, *, back: bool = False) -> Array:
    """Reorder the rows of every head: halves side by side become pairs, or `back` to halves.

    transformers rotates the two halves of a head against each other, Meta's code and llama.cpp its
    neighbouring rows. Raises Mismatch where the rows are no such heads.
    """
    rows = values.shape[0]
    if heads < 1 or rows % (2 * heads):
        raise Mismatch(
            f"{shown(name)} has {rows} rows, which are not {heads} attention heads of an even "
            "size. Give the base that the adapter was trained on."
        )
    half = rows // heads // 2
    middle = (half, 2) if back else (2, half)
    made: Array = values.reshape(heads, *middle, *values.shape[1:]).swapaxes(1, 2)
    return made.reshape(values.shape)


def packed(values: Array) -> Array:
    """Quantise to Q8_0: per 32 values of a row a float16 scale, max|x| / 127, and 32 int8.

    Rounding is half away from zero. Raises Unsupported where a scale overflows float16.
    """
    import numpy as np

    blocks = values.astype("float32").reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
        half = scale.astype("<f2")
    if not np.isfinite(half).all():
        raise Unsupported("Values are too large for q8_0. Pass --dtype float32.")
    scaled = blocks * inverse
    whole = np.trunc(scaled)
    whole += np.trunc(2 * (scaled - whole))
    made: Array = np.concatenate([half.view("u1"), whole.astype("i1").view("u1")], axis=1)
    return made


def unpacked(blocks: Array) -> Array:
    """Give the float32 values of Q8_0 blocks, 32 a row."""
    scale = blocks[:, :2].copy().view("<f2").astype("float32")
    made: Array = blocks[:, 2:].copy().view("i1").astype("float32") * scale
    return made


def check(file: Gguf, held: Held) -> None:
    """Refuse a tensor of another quantisation, whose size nothing vouches for."""
    if not held.kind:
        raise Unsupported(
            f"{shown(file.path)}: {shown(held.name)} is quantised in a way that is not read. Known "
            "are F32, F16, BF16 and Q8_0. Convert the adapter again with one of these."
        )


def load(file: Gguf, held: Held) -> Array:
    """Read a tensor as it is stored, Q8_0 as float32; raise Unreadable at an early end."""
    import numpy as np

    with file.path.open("rb") as source:
        source.seek(held.start)
        raw = source.read(held.nbytes)
    if len(raw) < held.nbytes:
        raise Unreadable(f"{shown(file.path)} ended while it was being read.")
    if held.kind != "Q8_0":
        return np.frombuffer(raw, dtype_of(held.kind)).reshape(held.shape)
    return unpacked(np.frombuffer(raw, "u1").reshape(-1, BLOCK + 2)).reshape(held.shape)
