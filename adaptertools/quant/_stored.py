"""Which stored tensors make 4-bit weights of bitsandbytes, and whether they fit together.

A weight `M.weight` has beside it `M.weight.absmax`, `.quant_map`, `.quant_state.bitsandbytes__nf4`
(or fp4), and under double quantisation `.nested_absmax` and `.nested_quant_map`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from adaptertools import tensorfile
from adaptertools.errors import Unreadable, shown
from adaptertools.packing import CODES, Packed
from adaptertools.quant import _state
from adaptertools.quant._fourbit import (
    ABSMAX,
    NESTED_ABSMAX,
    NESTED_QUANT_MAP,
    QUANT_MAP,
    STATE,
    TABLES,
    FourBit,
    by_code,
)
from adaptertools.quant._state import NESTED, State
from adaptertools.tensorfile import TensorSpec

MARK, OWN = ".quant_state.", "bitsandbytes__"
_SIDE = (ABSMAX, QUANT_MAP, NESTED_ABSMAX, NESTED_QUANT_MAP)
_STORAGES = ("U8", "I8", "F16", "BF16", "F32", "F64")  # bnb_4bit_quant_storage; the bytes are equal
_MOST = 1 << 16  # bytes of a quant_state; real ones have less than 250

_Tensors = Mapping[str, TensorSpec]


def packed(kind: str, tensors: _Tensors) -> dict[str, Packed]:
    """Find the weights of this kind, nf4 or fp4; raise Unreadable for orphans of either kind."""
    described = {name: _described(name) for name in tensors if MARK in name}
    _check_orphans(tensors, {weight for weight, _ in described.values()})
    return {
        weight: _weight(weight, name, kind, tensors)
        for name, (weight, found) in described.items()
        if found == kind
    }


def _described(name: str) -> tuple[str, str]:
    """Give the weight that a quant_state describes, and its kind."""
    weight, _, kind = name.rpartition(MARK)
    if not kind.startswith(OWN) or kind.removeprefix(OWN) not in TABLES:
        known = " and ".join(OWN + kind for kind in TABLES)
        raise Unreadable(
            f"{shown(name)} is of an unknown kind; bitsandbytes has {known}. "
            "Was it written by another tool?"
        )
    return weight, kind.removeprefix(OWN)


def _check_orphans(tensors: _Tensors, described: set[str]) -> None:
    for name, spec in tensors.items():
        weight, _, ending = name.rpartition(".")
        if ending in _SIDE and weight not in described:
            raise Unreadable(
                f"{shown(name)} belongs to a 4-bit weight, and {shown(weight + MARK + OWN)}… is "
                "missing. Fetch all shards of the model, of one revision."
            )
        if ending == "weight" and spec.dtype == "U8" and name not in described:
            raise Unreadable(
                f"{shown(name)} holds bytes (U8 {list(spec.shape)}), and no quant_state says what "
                "they mean. Fetch all shards of the model, of one revision."
            )


def _weight(weight: str, name: str, kind: str, tensors: _Tensors) -> Packed:
    other = next(other for other in TABLES if other != kind)
    if weight + MARK + OWN + other in tensors:
        raise Unreadable(
            f"{shown(weight)} is described as {kind} and as {other}: it cannot be both."
        )
    codes = _part(weight, weight, tensors)
    state = _read_state(weight, tensors[name], kind)
    nested = state.nested_dtype is not None
    roles = (*_SIDE[:2], *(_SIDE[2:] if nested else ()))
    parts = {CODES: codes, STATE: tensors[name]}
    parts |= {role: _part(weight, f"{weight}.{role}", tensors) for role in roles}
    if more := [role for role in _SIDE if role not in roles and f"{weight}.{role}" in tensors]:
        raise Unreadable(
            f"{shown(weight)}.{more[0]} is of double quantisation, and the quant_state knows none."
        )
    _check_sizes(weight, state, parts)
    _check_map(weight, kind, parts[QUANT_MAP])
    codec = FourBit(
        kind=kind, block_size=state.block_size, double_quant=nested,
        nested_dtype=state.nested_dtype or "float32",
    )  # fmt: skip
    return Packed(codec=codec, parts=parts, dtype=state.dtype, shape=state.shape)


def _part(weight: str, name: str, tensors: _Tensors) -> TensorSpec:
    if name not in tensors:
        raise Unreadable(
            f"{shown(name)} is missing: without it nobody can tell what the 4-bit weight "
            f"{shown(weight)} is. Fetch all shards of the model, of one revision."
        )
    return tensors[name]


def _read_state(weight: str, spec: TensorSpec, kind: str) -> State:
    if spec.dtype != "U8" or len(spec.shape) != 1 or spec.nbytes > _MOST:
        raise _wrong(spec, "U8, the text of a small JSON object")
    return _state.decode(tensorfile.read(spec).tobytes(), weight, kind)


def _check_sizes(weight: str, state: State, parts: Mapping[str, TensorSpec]) -> None:
    """Compare dtypes and counts with the logical shape and the block size."""
    count = prod(state.shape)
    blocks = -(-count // state.block_size)
    codes, absmax = parts[CODES], parts[ABSMAX]
    size = -(-count // 2)
    of = f"for {list(state.shape)} in 4 bits"
    if codes.dtype not in _STORAGES:
        raise _wrong(codes, f"one of {', '.join(_STORAGES)} {of}")
    if codes.nbytes != size or codes.shape != (codes.rows, 1):
        raise _wrong(codes, f"a column of {size} bytes {of}")
    _check_repacked(weight, state, absmax)
    wanted = {ABSMAX: ("F32", blocks), QUANT_MAP: ("F32", 16)}
    if state.nested_dtype is not None:
        wanted[ABSMAX] = ("U8", blocks)
        wanted |= {NESTED_ABSMAX: ("F32", -(-blocks // NESTED)), NESTED_QUANT_MAP: ("F32", 256)}
    for role, (dtype, length) in wanted.items():
        if (parts[role].dtype, parts[role].shape) != (dtype, (length,)):
            blocks_of = f" {of} and blocks of {state.block_size}"
            raise _wrong(parts[role], f"{dtype} [{length}]{blocks_of}")


def _check_repacked(weight: str, state: State, absmax: TensorSpec) -> None:
    """Refuse what bitsandbytes 0.50 saves after a forward pass on a CPU with AVX512-BF16."""
    rows, columns = state.shape
    if absmax.dtype == "BF16" and absmax.shape == (columns // state.block_size, rows):
        raise Unreadable(
            f"{shown(weight)}: its absmax is BF16 {list(absmax.shape)}, rounded and transposed. "
            "bitsandbytes did that when the model was used on a CPU before it was saved, and every "
            "program reads wrong weights from it. Quantise and save the original model again, and "
            "generate nothing in between."
        )


def _check_map(weight: str, kind: str, spec: TensorSpec) -> None:
    if (tensorfile.read(spec) != by_code(kind)).any():
        raise Unreadable(
            f"{shown(spec.name)} is not the table of {kind}, which {shown(weight)} is said to be; "
            "bitsandbytes would ignore it. Was it written by another tool?"
        )


def _wrong(spec: TensorSpec, wanted: str) -> Unreadable:
    return Unreadable(
        f"{shown(spec.name)} is {spec.dtype} {list(spec.shape)}, and {wanted} was expected. "
        "Fetch all shards of the model, of one revision."
    )
