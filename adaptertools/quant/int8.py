"""LLM.int8(): rows of int8 and the largest magnitude of each (bitsandbytes).  arXiv:2208.07339

As Int8Params, int8_vectorwise_quant and int8_vectorwise_dequant of bitsandbytes 0.50.2 do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.packing import CODES, Packed, Part, Table, Writer
from adaptertools.tensorfile import FLOATS, TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

methods = frozenset({"bitsandbytes"})

SCB, FORMAT = "SCB", "weight_format"  # roles, and how the names end
_STEP = 7.874015718698502e-3  # 1/127 in float32, as int8_vectorwise_dequant spells it
_FORMATS = ("row", "col32", "col_turing", "col_ampere")


@cache
def _table() -> Table:
    import numpy as np

    numbers = np.arange(-128, 128)
    values = numbers.astype(np.float32) * np.float32(_STEP)
    ranks = (*range(128, 256), *range(128))
    return Table(tuple(values.tolist()), tuple((numbers % 256).tolist()), ranks)


@dataclass(frozen=True, slots=True)
class Int8:
    """The codec; a scale is the largest magnitude of a row, and a code is its int8 as a byte."""

    kind: str = "int8"

    @property
    def bits(self) -> int:
        """One code to a byte."""
        return 8

    @property
    def table(self) -> Table:
        """Give the grid: -128 … 127, times 1/127."""
        return _table()

    def step(self, columns: int) -> int:
        """Any number of rows will do."""
        return 1

    def parts(self, name: str, shape: tuple[int, ...], dtype: str) -> tuple[Part, ...]:
        """Say what bitsandbytes stores for the weight `name`, codes first."""
        module = name.rpartition(".")[0]
        return (
            Part(CODES, name, "I8", shape),
            Part(SCB, f"{module}.{SCB}", "F32", (shape[0],)),
            Part(FORMAT, f"{module}.{FORMAT}", "U8", ()),
        )

    def unpack(self, raw: Array, rows: int, columns: int) -> Array:
        """Give the codes, uint8 (rows, columns): the bytes themselves."""
        return raw.reshape(rows, columns)

    def pack(self, codes: Array) -> Array:
        """Give the bytes of codes: the codes themselves."""
        return codes.reshape(-1)

    def scales(self, stored: Mapping[str, Array], shape: tuple[int, int]) -> Array:
        """Give SCB, float32 (rows,)."""
        return stored[SCB]

    def spread(self, scales: Array, row: int, rows: int, columns: int) -> Array:
        """Give the scales of some rows, float32 (rows, 1)."""
        return scales[row : row + rows, None]

    def decode(self, codes: Array, spread: Array) -> Array:
        """Give the values, float32, bit-equal to bitsandbytes' int8_vectorwise_dequant."""
        import numpy as np

        found = codes.view(np.int8).astype(np.float32)
        found *= spread
        found *= np.float32(_STEP)
        return found

    def fit(self, tile: Array) -> Array:
        """Give the largest magnitude of each row in float16, as float32.

        Raises Unsupported for what float16 cannot hold; the library would store infinity.
        """
        import numpy as np

        with np.errstate(over="ignore"):
            found: Array = np.abs(tile).max(axis=1).astype(np.float16).astype(np.float32)
        if not np.isfinite(found).all():
            raise Unsupported(
                "int8 is made from float16, and a weight is beyond its 65504. Choose --quant nf4."
            )
        return found

    def nearest(self, tile: Array, scales: Array) -> Array:
        """Round to codes, uint8, byte for byte as Int8Params does: from float16, ties to even."""
        import numpy as np

        found = tile.astype(np.float16).astype(np.float32)
        # torch makes 127 / x of two roundings. A row of zeros stays one, there through 0 · ∞.
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
        found *= (inverse * np.float32(127))[:, None]
        np.rint(found, out=found)
        return found.astype(np.int8).view(np.uint8)

    def side(self, scales: Array, dtype: str, shape: tuple[int, ...]) -> Mapping[str, bytes]:
        """Give the bytes of every part but the codes, by role."""
        import numpy as np

        return {SCB: scales.astype(np.dtype("<f4")).tobytes(), FORMAT: bytes(1)}


def writer(*, double_quant: bool, block_size: int) -> Writer:
    """Give the codec; raise Unsupported for double quantisation. A row is a block of any size."""
    if double_quant:
        raise Unsupported(
            "int8 has one scale for each row, and double quantisation is for scales of 4-bit "
            "blocks. Leave out --double-quant, or choose --quant nf4."
        )
    return Int8()


def packed(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> dict[str, Packed]:
    """Find the int8 weights: those with an SCB beside them.

    The files do not say which dtype a weight had, so it is taken from the tensors that are not
    quantised. Raises Unreadable where parts are missing, belong to nothing or disagree, Unsupported
    for a weight_format that is not "row".
    """
    dtype = _usual(tensors)
    found = {}
    for name, spec in tensors.items():
        module, _, ending = name.rpartition(".")
        if ending == SCB:
            found[f"{module}.weight"] = _weight(f"{module}.weight", spec, tensors, dtype)
        elif f"{module}.{SCB}" not in tensors and _needs_scales(name, spec, tensors):
            raise _missing(f"{module}.{SCB}", name)
    return found


def _usual(tensors: Mapping[str, TensorSpec]) -> str:
    """Give the float dtype that most weights have; F16, which int8 is made from, if none has."""
    sizes: Counter[str] = Counter()
    for name, spec in tensors.items():
        if spec.dtype in FLOATS and name.endswith(".weight"):
            sizes[spec.dtype] += prod(spec.shape)
    return sizes.most_common(1)[0][0] if sizes else "F16"


def _needs_scales(name: str, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> bool:
    if name.endswith(".weight"):  # a 4-bit weight can be stored as I8, too, and has an absmax
        return spec.dtype == "I8" and f"{name}.absmax" not in tensors
    return name.endswith(f".{FORMAT}")


def _weight(name: str, scb: TensorSpec, tensors: Mapping[str, TensorSpec], dtype: str) -> Packed:
    if name not in tensors:
        raise _missing(name, scb.name)
    codes = tensors[name]
    if codes.dtype != "I8" or len(codes.shape) != 2:
        raise _wrong(codes, f"an I8 matrix, as {shown(scb.name)} is there")
    if (scb.dtype, scb.shape) != ("F32", (codes.rows,)):
        raise _wrong(scb, f"F32 [{codes.rows}] for the rows of {shown(name)}")
    parts = {CODES: codes, SCB: scb}
    if (form := f"{name.rpartition('.')[0]}.{FORMAT}") in tensors:
        parts[FORMAT] = tensors[form]
        _check_format(tensors[form])
    return Packed(codec=Int8(), parts=parts, dtype=dtype, shape=codes.shape)


def _check_format(spec: TensorSpec) -> None:
    if (spec.dtype, spec.shape) != ("U8", ()):
        raise _wrong(spec, "one number of U8")
    if number := int(tensorfile.read(spec)):
        known = f" ({_FORMATS[number]})" if number < len(_FORMATS) else ""
        raise Unsupported(
            f"{shown(spec.name)} is {number}{known}, an order of elements that bitsandbytes gave "
            "up; only 0 (row) is handled. Load and save the model with a bitsandbytes of that time."
        )


def _missing(name: str, by: str) -> Unreadable:
    return Unreadable(
        f"{shown(name)} is missing, which {shown(by)} belongs to. "
        "Fetch all shards of the model, of one revision."
    )


def _wrong(spec: TensorSpec, wanted: str) -> Unreadable:
    return Unreadable(
        f"{shown(spec.name)} is {spec.dtype} {list(spec.shape)}, and {wanted} was expected. "
        "Fetch all shards of the model, of one revision."
    )
