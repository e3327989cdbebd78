"""The safetensors file: its header read with json alone, its data by byte range.

Reading a header imports neither torch nor numpy. Everything in it comes from a stranger and is
checked before it is believed: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.errors import NotFound, Unreadable, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit

# Bits per element of every dtype that safetensors 0.8 knows.
BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip

_ENTRY = {"dtype", "shape", "data_offsets"}

# How numpy spells the dtypes of arithmetic, and those of packed weights.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_OTHERS = {"U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64", "F8_E4M3": "float8_e4m3fn",
           "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies: dtype, shape, file and absolute byte range, from the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.stop - self.start

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        """Elements per row, all further axes flattened."""
        return prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself."""

    file: str
    raw: bytes  # length prefix and JSON, as they stand in the file
    tensors: Mapping[str, TensorSpec]  # in the order of their data
    metadata: Mapping[str, str]


def read_header(path: str | Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises NotFound where there is no such file and Unreadable for anything that is not a whole,
    well-formed safetensors file: a header longer than the file or than 100 MB, duplicate names,
    unknown dtypes, byte counts that do not fit dtype and shape, overlaps, holes, lost bytes.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise NotFound(f"{shown(path)}: no such file. A safetensors file was expected here.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        raw = file.read(8)
        length = int.from_bytes(raw, "little")
        if len(raw) < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
            raise Unreadable(
                f"{shown(path)}: not a safetensors file, or cut short: it has {size} bytes and "
                f"announces a header of {length}. Fetch it again."
            )
        raw += file.read(length)
    entries = _json(raw[8:], path)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Unreadable(f"{shown(path)}: __metadata__ in the header is not a map of strings.")
    specs = [_spec(name, entry, str(path), len(raw)) for name, entry in entries.items()]
    specs.sort(key=lambda spec: (spec.start, spec.stop))
    _check_ranges(specs, path, len(raw), size)
    return Header(str(path), raw, {spec.name: spec for spec in specs}, metadata)


def _json(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
            raise Unreadable(f"{shown(path)}: the header names {shown(twice)} twice.")
        return dict(pairs)

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        if b"\\u" in text:  # half a surrogate pair is JSON to Python, and no text to anyone
            json.dumps(entries, ensure_ascii=False).encode("utf-8")
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{shown(path)}: the header is not JSON: {shown(error)}.") from None
    if not isinstance(entries, dict):
        raise Unreadable(f"{shown(path)}: the header is not a JSON object.")
    return entries


def _spec(name: str, entry: Any, file: str, data: int) -> TensorSpec:
    def refused(why: str) -> Unreadable:
        return Unreadable(f"{shown(file)}: tensor {shown(name)} {why}")

    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise refused("is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise refused(f"has the unknown dtype {shown(dtype)}. Known: {', '.join(BITS)}.")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise refused("has a shape or offsets that are not lists of counts.")
    if any(product >= 2**63 for product in accumulate(shape, mul)):
        raise refused("has more elements than can be counted.")
    start, stop = offsets
    bits = prod(shape) * BITS[dtype]
    if bits % 8 or stop - start != bits // 8:
        raise refused(
            f"of {dtype} {list(shape)} takes {bits // 8}{'.5' * (bits % 8 == 4)} bytes, and the "
            f"header gives it {stop - start}."
        )
    return TensorSpec(name, dtype, tuple(shape), file, data + start, data + stop)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_ranges(specs: list[TensorSpec], path: Path, data: int, size: int) -> None:
    edges = [(data, "the header")] + [(spec.stop, spec.name) for spec in specs]
    for (stop, before), spec in zip(edges, specs, strict=False):
        if spec.start != stop:
            fault = "overlaps" if spec.start < stop else "leaves a hole after"
            raise Unreadable(f"{shown(path)}: tensor {shown(spec.name)} {fault} {shown(before)}.")
    if edges[-1][0] != size:
        fault = "is cut short" if size < edges[-1][0] else "has bytes that no tensor owns"
        raise Unreadable(
            f"{shown(path)} {fault}: {size} bytes, the header describes {edges[-1][0]}. "
            "Fetch it again."
        )


def encode_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Write the header (with length prefix) of a file that holds these tensors in this order.

    Each tensor is name, dtype, shape. The header is padded so that data starts at a multiple of 8.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, dtype, shape in tensors:
        stop = at + prod(shape) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def dtype_of(code: str) -> np.dtype[Any]:
    """Give numpy's dtype for a header's dtype of whole bytes."""
    import ml_dtypes
    import numpy as np

    name = FLOATS.get(code) or _OTHERS[code]
    return np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)


def raw_bytes(array: NDArray[Any]) -> memoryview:
    """Give the bytes of a contiguous array, to read into or write from; bfloat16 has no buffer."""
    return memoryview(array.reshape(-1).view("u1").data)


def read_into(file: int, array: NDArray[Any], offset: int) -> None:
    """Fill a contiguous array from an open file descriptor; raise Unreadable at an early end."""
    view, done = raw_bytes(array), 0
    while done < len(view):
        count = os.preadv(file, [view[done:]], offset + done)
        if count == 0:
            raise Unreadable(f"A file ended at byte {offset + done}, while it was being read.")
        done += count


def read(spec: TensorSpec) -> NDArray[Any]:
    """Read one tensor whole, in its stored dtype and shape."""
    import numpy as np

    array = np.empty(spec.shape, dtype_of(spec.dtype))
    with Path(spec.file).open("rb") as file:
        read_into(file.fileno(), array, spec.start)
    return array


def same(a: TensorSpec, b: TensorSpec) -> bool:
    """Tell whether two tensors are equal in dtype, shape and every stored byte."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with Path(a.file).open("rb") as left, Path(b.file).open("rb") as right:
        left.seek(a.start)
        right.seek(b.start)
        return all(
            left.read(count) == right.read(count)
            for count in (min(1 << 20, a.nbytes - at) for at in range(0, a.nbytes, 1 << 20))
        )


def finite(spec: TensorSpec) -> bool:
    """Tell whether a float tensor holds no NaN and no infinity, reading a megabyte at a time."""
    import numpy as np

    dtype, step = dtype_of(spec.dtype), 1 << 20
    with Path(spec.file).open("rb") as file, np.errstate(all="ignore"):
        file.seek(spec.start)
        for at in range(0, spec.nbytes, step):
            part = np.frombuffer(file.read(min(step, spec.nbytes - at)), dtype)
            # A finite sum of squares has finite terms, and takes a fraction of the time.
            squares = np.dot(part, part) if spec.dtype in ("F32", "F64") else np.inf
            if not (np.isfinite(squares) or np.isfinite(part).all()):
                return False
    return True
