"""The `quant_state` of a 4-bit weight: a small JSON object, stored as a tensor of its bytes.

Keys, order and spelling are those of bitsandbytes' QuantState.as_dict (functional.py, 0.50.2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from adaptertools.errors import Unreadable, Unsupported, shown

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # what bitsandbytes accepts
NESTED = 256  # scales that share a scale under double quantisation
DTYPES: Mapping[str, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
LONGEST = -2.2250738585072014e-308  # no float has a longer repr

_SPELLED = {code: name for name, code in DTYPES.items()}
_KEYS = {"quant_type", "blocksize", "dtype", "shape"}
_NESTED_KEYS = {"nested_blocksize", "nested_dtype", "nested_offset"}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a quant_state says."""

    kind: str  # nf4 or fp4
    block_size: int
    dtype: str  # of the logical weight: "BF16" …
    shape: tuple[int, ...]  # of the logical weight
    nested_dtype: str | None = None  # under double quantisation: "float32" …
    offset: float = 0.0  # under double quantisation: what is added to every scale


def encode(state: State) -> bytes:
    """Write it as bitsandbytes does, but for trailing spaces.

    Under double quantisation they make the length independent of the offset, whose digits are not
    known yet when a file's header is written. json.loads does not see them.
    """
    return _text(state).ljust(len(_text(replace(state, offset=LONGEST))))


def _text(state: State) -> bytes:
    said: dict[str, Any] = {
        "quant_type": state.kind,
        "blocksize": state.block_size,
        "dtype": _SPELLED[state.dtype],
        "shape": state.shape,
    }
    if state.nested_dtype is not None:
        said |= {
            "nested_blocksize": NESTED,
            "nested_dtype": state.nested_dtype,
            "nested_offset": state.offset,
        }
    return json.dumps(said).encode()


def decode(raw: bytes, name: str, kind: str) -> State:
    """Read and check the quant_state of the weight `name`.

    Raises Unreadable where it is no JSON object of the known keys and types or is of another kind,
    Unsupported for what bitsandbytes could mean and nobody writes.
    """
    said = _object(raw, name)
    nested = bool(said.keys() & _NESTED_KEYS)
    wanted = _KEYS | _NESTED_KEYS if nested else _KEYS
    if said.keys() != wanted:
        odd = sorted(said.keys() ^ wanted)[0]
        fault = "is missing" if odd in wanted else "is not known"
        raise Unreadable(f"{_where(name)}: the key {shown(odd)} {fault}. Fetch the file again.")
    _check(said["quant_type"] == kind, name, "quant_type", said, kind)
    block = said["blocksize"]
    _check(type(block) is int and block in BLOCKS, name, "blocksize", said, f"one of {BLOCKS}")
    _check(_known(said["dtype"]), name, "dtype", said, f"one of {', '.join(DTYPES)}")
    shape = said["shape"]
    whole = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    _check(whole, name, "shape", said, "a list of positive counts")
    if len(shape) != 2:
        raise Unsupported(
            f"{shown(name)} is a 4-bit weight of shape {shape}, and only matrices are handled: "
            "fused experts have no common layout. Pass the 16-bit model as --base."
        )
    if not nested:
        return State(kind=kind, block_size=block, dtype=DTYPES[said["dtype"]], shape=tuple(shape))
    _check_nested(said, name)
    return State(
        kind=kind, block_size=block, dtype=DTYPES[said["dtype"]], shape=tuple(shape),
        nested_dtype=said["nested_dtype"], offset=float(said["nested_offset"]),
    )  # fmt: skip


def offset(raw: bytes) -> float:
    """Give the offset of a quant_state that `decode` has accepted."""
    return float(json.loads(raw)["nested_offset"])


def _object(raw: bytes, name: str) -> dict[str, Any]:
    try:
        said = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{_where(name)} is not JSON: {shown(error)}.") from None
    if not isinstance(said, dict):
        raise Unreadable(f"{_where(name)} is not a JSON object.")
    return said


def _check_nested(said: Mapping[str, Any], name: str) -> None:
    _check(_known(said["nested_dtype"]), name, "nested_dtype", said, f"one of {', '.join(DTYPES)}")
    _check(_finite(said["nested_offset"]), name, "nested_offset", said, "a finite number")
    if said["nested_blocksize"] != NESTED or type(said["nested_blocksize"]) is not int:
        raise Unsupported(
            f"{_where(name)}: nested_blocksize is {shown(said['nested_blocksize'])}, and "
            f"bitsandbytes only ever writes {NESTED}. Pass the 16-bit model as --base."
        )


def _known(value: Any) -> bool:
    return isinstance(value, str) and value in DTYPES


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _where(name: str) -> str:
    return f"The quant_state of {shown(name)}"


def _check(right: bool, name: str, key: str, said: Mapping[str, Any], wanted: str) -> None:
    if not right:
        raise Unreadable(
            f"{_where(name)}: {key} is {shown(said[key])}, and {wanted} was expected. "
            "Fetch the file again."
        )
