"""8-bit floats, with one scale per block, per row or per tensor. No writer: scales are kept.

A value is float32(code) · float32(scale), as in transformers' `Fp8Dequantize` and
`_dequantize_fp8_weight` (integrations/finegrained_fp8.py) and in compressed-tensors' naive and
mxfp8 compressors. Scales stored as U8 or F8_E8M0 are exponents: 2^(e − 127). Blocks lie on the last
two axes, the last ones ragged (where `Fp8Dequantize` guesses another size, or fails); a third axis
(fused experts) has a grid for each. Scales of activations and caches are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unreadable, Unsupported, first, shown
from adaptertools.packing import CODES, Packed, Part, Table
from adaptertools.quant._refused import groups
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

    Matrix = tuple[int, int]

methods = frozenset({"fp8", "mxfp8", "compressed-tensors"})

SCALE = "scale"  # the role of the tensor with the scales
_FLOATS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_EXPONENTS = ("U8", "F8_E8M0")
_SCALES = ("F32", "BF16", "F16", *_EXPONENTS)
# What a scale's name ends with; from a dot it takes the place of `.weight`. transformers, Qwen and
# DeepSeek-V3; compressed-tensors and vLLM; DeepSeek-V4; Mistral.
_ENDINGS = ("_scale_inv", "_scale", ".scale", ".qscale_weight")
_SURE = ("_scale_inv", ".weight_scale", ".qscale_weight")  # nothing but a scale is called so
# What config.json means where it is silent: FineGrainedFP8Config, and the OCP MX specification.
_BLOCK = {"fp8": (128, 128), "mxfp8": (1, 32)}


@dataclass(frozen=True, slots=True)
class Fp8:
    """The packing of one float8 weight: its kind of float, and the grid of its scales.

    Tiles may be cut from (experts, rows · columns), as `TensorSpec` counts, or (experts · rows,
    columns): `scales` and `spread` take either.
    """

    dtype: str  # of the codes: F8_E4M3 or F8_E5M2
    matrix: Matrix  # the last two axes of the weight
    block: Matrix  # rows and columns that share a scale; (1, columns) and `matrix` included
    ending: str  # of the scale's name
    scale_dtype: str
    axes: int  # of the stored scale; less than the weight's where trailing ones are left out
    kind, bits = "fp8", 8

    @property
    def table(self) -> Table:
        """Give the finite floats: 253 values of E4M3, 247 of E5M2."""
        return _table(self.dtype)

    def step(self, columns: int) -> int:
        """Any number of rows is a whole number of bytes."""
        return 1

    def parts(self, name: str, shape: tuple[int, ...], dtype: str) -> tuple[Part, ...]:
        """Name codes and scale."""
        grid = (*shape[:-2], *_grid((shape[-2], shape[-1]), self.block))[: self.axes]
        scale = Part(SCALE, _scale_name(name, self.ending), self.scale_dtype, grid)
        return Part(CODES, name, self.dtype, shape), scale

    def unpack(self, raw: Array, rows: int, columns: int) -> Array:
        """A code is a byte."""
        return raw.reshape(rows, columns)

    def pack(self, codes: Array) -> Array:
        """A byte is a code."""
        return codes.reshape(-1)

    def scales(self, stored: Mapping[str, Array], shape: Matrix) -> Array:
        """Widen the scale, in its stored shape.

        Exponents may come as uint8 or as ml_dtypes' float8_e8m0fnu. Raises Unreadable for scales
        that are negative, NaN, or so large that a value would leave float32.
        """
        import numpy as np

        scale = stored[SCALE]
        if self.scale_dtype in _EXPONENTS:
            powers = scale.view(np.uint8).astype(np.int32) - 127
            with np.errstate(over="ignore"):
                wide = np.ldexp(np.float32(1), powers)  # 255, their NaN, becomes infinite
        else:
            wide = scale.astype(np.float32)
        with np.errstate(all="ignore"):
            sound = (wide >= 0) & np.isfinite(wide * np.float32(self.table.values[-1]))
        if not sound.all():
            raise Unreadable(
                f"{np.count_nonzero(~sound)} of {wide.size} scales are negative, NaN or so large "
                "that their values leave float32. The file is damaged; fetch it again."
            )
        return np.asarray(wide, np.float32)

    def spread(self, scales: Array, row: int, rows: int, columns: int) -> Array:
        """Repeat each scale over its block; one per row or per tensor stays (rows, 1) or (1, 1)."""
        import numpy as np

        if scales.size == 1:
            return scales.reshape(1, 1)
        (high, wide), (across, along) = self.matrix, _grid(self.matrix, self.block)
        lines = columns // wide  # rows of the matrix that one row of the tile holds
        line = np.arange(row * lines, (row + rows) * lines)
        place = line // high * across + line % high // self.block[0]
        used = scales.reshape(-1, along)[place[0] : place[-1] + 1]
        if along > 1:
            used = np.repeat(used, self.block[1], axis=1)[:, :wide]
        found: Array = used[place - place[0]]
        if lines > 1:
            found = np.broadcast_to(found, (len(line), wide)).reshape(rows, columns)
        return found

    def decode(self, codes: Array, spread: Array) -> Array:
        """Multiply the floats by their scales; a NaN code gives NaN."""
        values = _floats(self.dtype).take(codes)
        values *= spread
        return values


@cache
def _floats(dtype: str) -> Array:
    """Give the float32 that each of the 256 codes stands for, −0, infinities and NaN included."""
    import ml_dtypes
    import numpy as np

    codes = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, _FLOATS[dtype]))
    return np.asarray(codes, np.float32)


@cache
def _table(dtype: str) -> Table:
    import numpy as np

    floats = _floats(dtype)
    finite = np.isfinite(floats)
    values, codes = np.unique(floats[finite], return_index=True)  # the first zero, so +0
    ranks = np.where(finite, np.searchsorted(values, floats), -1)
    codes = np.flatnonzero(finite)[codes]
    return Table(tuple(values.tolist()), tuple(codes.tolist()), tuple(ranks.tolist()))


def packed(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> dict[str, Packed]:
    """Find the float8 weights of two or three axes, each with its scale, wherever that is stored.

    The logical dtype is the scale's where that has 16 bits, else BF16 (transformers' rule).
    Raises Unreadable for a weight without its scale or the reverse, a dtype or shape that does not
    fit, and a base without any float8; Unsupported for more axes, and stacks without a grid each.
    """
    blocks = list(_blocks(config))
    found = {n: _weight(s, tensors, blocks) for n, s in tensors.items() if s.dtype in _FLOATS}
    _check_rest(tensors, {found[name].parts[SCALE].name for name in found})
    method = str(config.get("quant_method"))
    if not found and (method in _BLOCK or groups(config)):
        raise Unreadable(
            f"config.json says that the base is packed by {shown(method)}, and none of its tensors "
            "is a float8. Fetch config.json and weights from the same revision."
        )
    return found


def _weight(spec: TensorSpec, tensors: Mapping[str, TensorSpec], blocks: list[Matrix]) -> Packed:
    names = {ending: _scale_name(spec.name, ending) for ending in _ENDINGS}
    there = [ending for ending, name in names.items() if name in tensors]
    if len(there) != 1:
        raise Unreadable(
            f"{shown(spec.name)} is {spec.dtype} and has {len(there) or 'no'} scales; one of "
            f"{first(dict.fromkeys(names.values()))} was expected. Fetch every shard again."
        )
    scale = tensors[names[there[0]]]
    if scale.dtype not in _SCALES:
        wanted = ", ".join(_SCALES)
        raise Unreadable(f"{shown(scale.name)}: a scale of {scale.dtype}; expected: {wanted}.")
    matrix, block = _fit(spec, scale, blocks)
    codec = Fp8(spec.dtype, matrix, block, there[0], scale.dtype, len(scale.shape))
    dtype = scale.dtype if scale.dtype in ("BF16", "F16") else "BF16"
    return Packed(codec=codec, parts={CODES: spec, SCALE: scale}, dtype=dtype, shape=spec.shape)


def _fit(spec: TensorSpec, scale: TensorSpec, blocks: list[Matrix]) -> tuple[Matrix, Matrix]:
    """Give the matrix and the one block size whose grid has the scale's shape."""
    if not 2 <= len(spec.shape) <= 3 or 0 in spec.shape:
        raise Unsupported(
            f"{shown(spec.name)}: {spec.dtype} of shape {list(spec.shape)}, and float8 is read "
            "with two or three axes. Pass the 16-bit model as --base."
        )
    high, wide = spec.shape[-2:]
    fits = set()
    for rows, columns in ((high, wide), (1, wide), *blocks):
        block = min(rows, high), min(columns, wide)  # block sizes that mean the same become equal
        grid = (*spec.shape[:-2], *_grid((high, wide), block))
        short = len(spec.shape) - len(scale.shape)
        # A single matrix may leave out the ones at the end of [N, 1] and [1, 1].
        if grid[: len(scale.shape)] == scale.shape and (len(grid) == 2 or not short):
            fits |= {block} if set(grid[len(scale.shape) :]) <= {1} else set()
    if len(fits) != 1:
        sizes = first(list(block) for block in blocks) or "none in config.json"
        raise (Unreadable if len(spec.shape) == 2 else Unsupported)(
            f"{shown(scale.name)} of shape {list(scale.shape)} does not tell which scale is whose "
            f"in {shown(spec.name)} of shape {list(spec.shape)}: expected one per tensor, row or "
            f"block ({sizes}). Check weight_block_size, or pass the 16-bit model as --base."
        )
    return (high, wide), fits.pop()


def _grid(matrix: Matrix, block: Matrix) -> Matrix:
    return -(-matrix[0] // block[0]), -(-matrix[1] // block[1])


def _scale_name(weight: str, ending: str) -> str:
    return (weight.removesuffix(".weight") if ending.startswith(".") else weight) + ending


def _check_rest(tensors: Mapping[str, TensorSpec], used: set[str]) -> None:
    """Refuse scales that nothing uses."""
    for name, spec in tensors.items():
        if name in used or not (name.endswith(_SURE) or spec.dtype == "F8_E8M0"):
            continue
        stem = next((name.removesuffix(e) for e in _ENDINGS if name.endswith(e)), name)
        found = first(f"{n} {tensors[n].dtype}" for n in (stem, f"{stem}.weight") if n in tensors)
        raise Unreadable(
            f"{shown(name)} is a scale without a float8 weight (found {found or 'no weight'}). "
            "Fetch every shard again."
        )


def _blocks(config: Mapping[str, Any]) -> Iterator[Matrix]:
    """Give the block sizes that quantization_config speaks of."""
    method = str(config.get("quant_method"))
    sizes = [config.get("weight_block_size", _BLOCK.get(method))]
    if method == "compressed-tensors":
        sizes = [g.get("block_structure") or (1, g.get("group_size")) for g in groups(config)]
    for size in sizes:
        if size in (None, (1, None), (1, -1)):  # per tensor or row: that needs no size
            continue
        pair = list(size) if isinstance(size, (list, tuple)) else []
        if len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
            raise Unreadable(
                f"quantization_config gives blocks of {shown(size)}, and two positive counts "
                "(rows, columns) were expected. Fetch config.json again."
            )
        yield pair[0], pair[1]
