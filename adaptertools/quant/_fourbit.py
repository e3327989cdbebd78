"""bitsandbytes' 4-bit packings: 16 values, one scale for every block of the flattened matrix.

As quantize_4bit and dequantize_4bit of bitsandbytes 0.50.2 on the CPU (backends/default/ops.py),
byte for byte; QLoRA, arXiv:2305.14314.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import gcd, prod
from typing import TYPE_CHECKING

from adaptertools.errors import Unsupported
from adaptertools.packing import CODES, Part, Table
from adaptertools.quant import _blockwise, _state
from adaptertools.quant._state import BLOCKS, NESTED, State

if TYPE_CHECKING:
    from adaptertools.update import Array

ABSMAX, QUANT_MAP, STATE = "absmax", "quant_map", "state"
NESTED_ABSMAX, NESTED_QUANT_MAP = "nested_absmax", "nested_quant_map"

_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
_TWELFTHS = (0.0052083334885537624, 0.1666666716337204, 0.25, 0.3333333432674408, 0.5,
             0.6666666865348816, 1.0)  # fmt: skip
_FP4 = (*(-value for value in reversed(_TWELFTHS)), 0.0, *_TWELFTHS)

TABLES: Mapping[str, Table] = {
    "nf4": Table(_NF4, tuple(range(16)), tuple(range(16))),
    "fp4": Table(
        _FP4,
        (11, 10, 13, 12, 15, 14, 9, 0, 1, 6, 7, 4, 5, 2, 3),
        (7, 8, 13, 14, 11, 12, 9, 10, 7, 6, 1, 0, 3, 2, 5, 4),  # 8 is a second zero
    ),
}
# Codes by ascending value. fp4 has both zeros: rounding gives the second one to small positives.
_ORDERS = {
    "nf4": TABLES["nf4"].codes,
    "fp4": (11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3),
}

_CHUNK = 1 << 15  # elements that are rounded at a time, so that they stay in the cache
_TINY = 1e-38  # no block is divided by less


@cache
def by_code(kind: str) -> Array:
    """Give the value of each of the 16 codes, float32: the `quant_map`."""
    import numpy as np

    table = TABLES[kind]
    found = np.array([table.values[rank] for rank in table.ranks], np.float32)
    found.flags.writeable = False
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBit:
    """The codec of a 4-bit weight."""

    kind: str  # nf4 or fp4
    block_size: int
    double_quant: bool = False
    nested_dtype: str = "float32"  # of the scales' arithmetic under double quantisation

    @property
    def bits(self) -> int:
        """Two codes to a byte."""
        return 4

    @property
    def table(self) -> Table:
        """Give the grid."""
        return TABLES[self.kind]

    def step(self, columns: int) -> int:
        """Give the fewest rows that end where a block does, and so at a whole byte."""
        return self.block_size // gcd(columns, self.block_size)

    def parts(self, name: str, shape: tuple[int, ...], dtype: str) -> tuple[Part, ...]:
        """Say what bitsandbytes stores for the weight `name`, codes first."""
        count = prod(shape)
        blocks = -(-count // self.block_size)
        state = len(self._state(dtype, shape, _state.LONGEST))
        nested = (
            Part(NESTED_ABSMAX, f"{name}.nested_absmax", "F32", (-(-blocks // NESTED),)),
            Part(NESTED_QUANT_MAP, f"{name}.nested_quant_map", "F32", (256,)),
        )
        return (
            Part(CODES, name, "U8", (-(-count // 2), 1)),
            Part(ABSMAX, f"{name}.absmax", "U8" if self.double_quant else "F32", (blocks,)),
            Part(QUANT_MAP, f"{name}.quant_map", "F32", (16,)),
            *(nested if self.double_quant else ()),
            Part(STATE, f"{name}.quant_state.bitsandbytes__{self.kind}", "U8", (state,)),
        )

    def unpack(self, raw: Array, rows: int, columns: int) -> Array:
        """Give the codes, uint8 (rows, columns); the first of each byte is its upper half."""
        import numpy as np

        pairs = raw.astype(np.dtype("<u2"))
        low = pairs << 8
        pairs >>= 4
        pairs |= low
        pairs &= 0x0F0F
        return pairs.view(np.uint8)[: rows * columns].reshape(rows, columns)

    def pack(self, codes: Array) -> Array:
        """Give the bytes of codes; half a byte that is left over gets the code of zero."""
        import numpy as np

        flat = np.ascontiguousarray(codes).reshape(-1)
        if flat.size % 2:
            flat = np.append(flat, np.uint8(self.table.codes[self.table.values.index(0.0)]))
        pairs = flat.view(np.dtype("<u2"))
        upper = pairs << 4
        upper |= pairs >> 8
        return upper.astype(np.uint8)

    def scales(self, stored: Mapping[str, Array], shape: tuple[int, int]) -> Array:
        """Give absmax, float32 (blocks,), from the side tensors as they are stored."""
        absmax = stored[ABSMAX]
        if not self.double_quant:
            return absmax
        offset = _state.offset(stored[STATE].tobytes())
        values, nested = stored[NESTED_QUANT_MAP], stored[NESTED_ABSMAX]
        return _blockwise.expand(absmax, values, nested, offset, self.nested_dtype)

    def spread(self, scales: Array, row: int, rows: int, columns: int) -> Array:
        """Give the scale of each element of some rows, float32 (rows, columns)."""
        import numpy as np

        size = self.block_size
        start, stop = row * columns, (row + rows) * columns
        first = start // size
        part = scales[first : -(-stop // size)]
        found = np.empty((len(part), size), np.float32)
        found[...] = part[:, None]
        return found.reshape(-1)[start - first * size : stop - first * size].reshape(rows, columns)

    def decode(self, codes: Array, spread: Array) -> Array:
        """Give the values, float32, bit-equal to bitsandbytes' dequantize_4bit."""
        found: Array = by_code(self.kind).take(codes)
        found *= spread
        return found

    def fit(self, tile: Array) -> Array:
        """Give the largest magnitude of each block, float32; a last short block's is never 0."""
        import numpy as np

        size = np.abs(tile, dtype=np.float32).reshape(-1)
        blocks, rest = divmod(size.size, self.block_size)
        scales = np.empty(blocks + (rest > 0), np.float32)
        size[: size.size - rest].reshape(blocks, self.block_size).max(axis=1, out=scales[:blocks])
        if rest:
            scales[-1] = np.maximum(size[-rest:].max(), np.float32(_TINY))
        return scales

    def nearest(self, tile: Array, scales: Array) -> Array:
        """Round to codes, uint8, byte for byte as bitsandbytes' quantize_4bit on the CPU."""
        import numpy as np

        flat = np.ascontiguousarray(tile, np.float32).reshape(-1)
        codes = np.empty(flat.size, np.uint8)
        whole = flat.size - flat.size % self.block_size
        space = np.empty(min(_CHUNK, whole), np.float32)
        with np.errstate(all="ignore"):  # NaN goes through, to the last code
            # Whole blocks are multiplied by the reciprocal and a short one is divided: one ulp.
            inverse = np.float32(1) / np.maximum(scales, np.float32(_TINY))
            for start in range(0, whole, _CHUNK):
                stop = min(start + _CHUNK, whole)
                factor = inverse[start // self.block_size : stop // self.block_size, None]
                t = space[: stop - start]
                blocks = (len(factor), self.block_size)
                np.multiply(flat[start:stop].reshape(blocks), factor, out=t.reshape(blocks))
                self._round(t, codes[start:stop])
            if whole < flat.size:
                self._round(flat[whole:] / scales[-1], codes[whole:])
        return codes.reshape(tile.shape)

    def _round(self, t: Array, codes: Array) -> None:
        """Fill in the code nearest to each t; halfway between two, that of the smaller value."""
        import numpy as np

        order = np.array(_ORDERS[self.kind], np.uint8)
        values = by_code(self.kind)[order]
        below = np.empty(t.size, np.bool_)
        codes.fill(15)
        # Fifteen comparisons in the cache are faster than a search for each element.
        for bound in (values[:-1] + values[1:]) / np.float32(2):
            np.less_equal(t, bound, out=below)
            codes -= below.view(np.uint8)
        if self.kind == "fp4":
            codes[...] = order.take(codes)

    def side(self, scales: Array, dtype: str, shape: tuple[int, ...]) -> Mapping[str, bytes]:
        """Give the bytes of every part but the codes, by role.

        With double quantisation raises Unsupported where torch is missing (see _blockwise).
        """
        import numpy as np

        little = np.dtype("<f4")
        found = {QUANT_MAP: by_code(self.kind).astype(little).tobytes()}
        if not self.double_quant:
            state = self._state(dtype, shape, 0.0)
            return found | {ABSMAX: scales.astype(little).tobytes(), STATE: state}
        codes, absmax, offset = _blockwise.compress(scales)
        return found | {
            ABSMAX: codes.tobytes(),
            NESTED_ABSMAX: absmax.astype(little).tobytes(),
            NESTED_QUANT_MAP: _blockwise.dynamic_map().astype(little).tobytes(),
            STATE: self._state(dtype, shape, offset),
        }

    def _state(self, dtype: str, shape: tuple[int, ...], offset: float) -> bytes:
        nested = self.nested_dtype if self.double_quant else None
        return _state.encode(
            State(
                kind=self.kind, block_size=self.block_size, dtype=dtype, shape=shape,
                nested_dtype=nested, offset=offset,
            )
        )  # fmt: skip


def writer(kind: str, double_quant: bool, block_size: int) -> FourBit:
    """Give the codec; raise Unsupported for a block size that bitsandbytes does not have."""
    if block_size not in BLOCKS:
        raise Unsupported(
            f"bitsandbytes has no 4-bit blocks of {block_size} weights. "
            f"Pass --block-size with one of {', '.join(map(str, BLOCKS))}."
        )
    return FourBit(kind=kind, block_size=block_size, double_quant=double_quant)
