"""MXFP4 as gpt-oss stores it: 4-bit floats, 32 to a power of two. No writer: scales are kept.

`X_blocks` U8 [..., G, 16] and `X_scales` U8 [..., G] are one weight, called `X`, of shape
[..., 32 · G], as it is stored: for gpt-oss [experts, out, in]. (transformers transposes it to
[experts, in, out] as it loads; that is a question of layout.) The first element of a byte is in its
low half. A value is 0, ½, 1, 1½, 2, 3, 4 or 6, signed, times 2^(scale − 127): exact in float32 and
bfloat16. transformers, `_convert_moe_packed_tensors` in integrations/mxfp4.py; OCP Microscaling
Formats 1.0, section 5.3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unreadable, shown
from adaptertools.packing import CODES, Packed, Part, Table
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

methods = frozenset({"mxfp4"})

SCALES = "scales"  # the role of the tensor with the exponents
_BLOCK = 32
_LARGEST = 252  # 6 · 2^(253 − 127) leaves float32, and 255 is the format's NaN
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FLOATS = (*_POSITIVE, *(-value for value in _POSITIVE))  # by code; code 8 is −0
_CODES = (*range(15, 8, -1), *range(8))  # by value, ascending
_TABLE = Table(
    values=tuple(_FLOATS[code] for code in _CODES),
    codes=_CODES,
    ranks=tuple(_CODES.index(code % 8 and code) for code in range(16)),
)


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """The packing; it has no settings.

    A tile may be any rows of the weight seen as a matrix whose columns are whole blocks: (experts,
    out · in), as `TensorSpec` counts, or (experts · out, in), the same for `scales` and `spread`.
    """

    kind, bits = "mxfp4", 4

    @property
    def table(self) -> Table:
        """Give the 15 values of E2M1."""
        return _TABLE

    def step(self, columns: int) -> int:
        """A row is whole blocks, so whole bytes."""
        return 1

    def parts(self, name: str, shape: tuple[int, ...], dtype: str) -> tuple[Part, ...]:
        """Name blocks and scales; the last axis is a multiple of 32."""
        grid = (*shape[:-1], shape[-1] // _BLOCK)
        scales = Part(SCALES, f"{name}_scales", "U8", grid)
        return Part(CODES, f"{name}_blocks", "U8", (*grid, _BLOCK // 2)), scales

    def unpack(self, raw: Array, rows: int, columns: int) -> Array:
        """Split each byte into two codes, the low half first."""
        import numpy as np

        codes = np.empty((raw.size, 2), np.uint8)
        np.bitwise_and(raw, 15, out=codes[:, 0])
        np.right_shift(raw, 4, out=codes[:, 1])
        return codes.reshape(rows, columns)

    def pack(self, codes: Array) -> Array:
        """Join each two codes into a byte."""
        pairs = codes.reshape(-1, 2)
        packed: Array = pairs[:, 1] << 4
        packed |= pairs[:, 0]
        return packed

    def scales(self, stored: Mapping[str, Array], shape: tuple[int, int]) -> Array:
        """Give the powers of two, float32 (rows, blocks of a row).

        Raises Unreadable for exponents above 252, among them the format's NaN: values would leave
        float32. None underflows: the smallest, 2⁻¹²⁷, and half of it are float32's subnormals.
        """
        import numpy as np

        exponents = stored[SCALES].reshape(shape[0], shape[1] // _BLOCK)
        if count := np.count_nonzero(exponents > _LARGEST):
            raise Unreadable(
                f"{count} of {exponents.size} MXFP4 scales are NaN, or so large that their values "
                "leave float32. The file is damaged; fetch it again."
            )
        return np.asarray(np.ldexp(np.float32(1), exponents.astype(np.int32) - 127))

    def spread(self, scales: Array, row: int, rows: int, columns: int) -> Array:
        """Repeat each scale over its 32 elements."""
        import numpy as np

        return np.repeat(scales[row : row + rows], _BLOCK, axis=1)

    def decode(self, codes: Array, spread: Array) -> Array:
        """Multiply; exact."""
        import numpy as np

        values = np.array(_FLOATS, np.float32).take(codes)
        values *= spread
        return values


def packed(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> dict[str, Packed]:
    """Find every `X_blocks` with its `X_scales`; the logical dtype is BF16, as gpt-oss's own.

    Raises Unreadable for half a pair, a dtype or shape that does not fit, a plain tensor of the
    weight's name, and a base without any.
    """
    names = {n.removesuffix("_blocks") for n in tensors if n.endswith("_blocks")}
    bytes_ = (name for name, spec in tensors.items() if spec.dtype == "U8")
    names |= {n.removesuffix("_scales") for n in bytes_ if n.endswith("_scales")}
    if not names:
        raise Unreadable(
            "config.json says that the base is mxfp4, and none of its tensors is called *_blocks "
            "or *_scales. Fetch config.json and weights from the same revision."
        )
    return {name: _weight(name, tensors) for name in sorted(names)}


def _weight(name: str, tensors: Mapping[str, TensorSpec]) -> Packed:
    blocks, scales = tensors.get(f"{name}_blocks"), tensors.get(f"{name}_scales")
    if blocks is None or scales is None or name in tensors:
        there = [n for n in (name, f"{name}_blocks", f"{name}_scales") if n in tensors]
        raise Unreadable(
            f"{shown(name)}: of an MXFP4 weight {' and '.join(map(shown, there))} are there, and "
            "_blocks and _scales were expected. Fetch every shard of the base again."
        )
    *lead, size = blocks.shape or (0,)
    fits = len(lead) > 1 and size == _BLOCK // 2 and scales.shape == (*lead,)
    if not fits or {blocks.dtype, scales.dtype} != {"U8"}:
        raise Unreadable(
            f"{shown(name)}: MXFP4 blocks of {blocks.dtype} {list(blocks.shape)} with scales of "
            f"{scales.dtype} {list(scales.shape)}; U8 [..., G, 16] and U8 [..., G] were expected. "
            "Fetch every shard of the base again."
        )
    shape = (*lead[:-1], lead[-1] * _BLOCK)
    return Packed(codec=Mxfp4(), parts={CODES: blocks, SCALES: scales}, dtype="BF16", shape=shape)
