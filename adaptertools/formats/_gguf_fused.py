"""Bases whose q, k and v llama.cpp's converter has put together (--fuse-qkv).

A LoRA on parts of such a weight is one on the whole, block-diagonal: every part keeps its own
lora_a, and its lora_b stands in its own rows and columns. The rank is the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from adaptertools.errors import Mismatch, shown
from adaptertools.formats._gguf_base import Base
from adaptertools.formats._gguf_names import Place

if TYPE_CHECKING:
    from adaptertools.update import Array

_WHOLE, _PARTS = "attn_qkv", ("attn_q", "attn_k", "attn_v")  # in the order of their rows


def home(base: Base, place: Place) -> str:
    """Give the tensor that holds a weight in this base, which may be one of three weights."""
    held = base.file.tensors if base.file else {}
    name = place.name.replace(f".{place.part}.", f".{_WHOLE}.")
    apart = place.part not in _PARTS or place.name in held
    return place.name if apart or name not in held else name


def fused(
    base: Base, name: str, pieces: Mapping[str, tuple[Array, Array]]
) -> tuple[Array, Array]:  # fmt: skip
    """Put the factors of parts together; parts without a LoRA are zeros.

    Raises Mismatch where a part has not the rows that it has in the base.
    """
    import numpy as np

    rows = _rows(base, name)
    kinds = {each.dtype for pair in pieces.values() for each in pair}
    kind = kinds.pop() if len(kinds) == 1 else np.dtype("float32")
    down = np.concatenate([a.astype(kind) for a, _ in pieces.values()])
    up, at = np.zeros((rows["attn_v"].stop, len(down)), kind), 0
    for part, (_, values) in pieces.items():
        place, (count, rank) = rows[part], values.shape
        if count != place.stop - place.start:
            raise Mismatch(
                f"{shown(name)}: the LoRA of {part} has {count} rows, and the base has "
                f"{place.stop - place.start} there. Is it another model?"
            )
        up[place, at : at + rank] = values.astype(kind)
        at += rank
    return down, up


def _rows(base: Base, name: str) -> dict[str, slice]:
    """Tell which rows of the whole are whose: heads of q, then of k, then of v."""
    assert base.file is not None
    total, heads = base.file.tensors[name].shape[0], base.heads or 0
    others = base.kv_heads or heads
    if not heads or total % (heads + 2 * others):
        raise Mismatch(f"{shown(name)} has {total} rows, which are not whole attention heads.")
    size, at, found = total // (heads + 2 * others), 0, {}
    for part, share in zip(_PARTS, (heads, others, others), strict=True):
        found[part] = slice(at, at + share * size)
        at += share * size
    return found
