"""The data of a safetensors file, by byte range; its header is read by `tensorheader`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unreadable
from adaptertools.tensorheader import BITS as BITS
from adaptertools.tensorheader import MAX_HEADER as MAX_HEADER
from adaptertools.tensorheader import Header as Header
from adaptertools.tensorheader import TensorSpec as TensorSpec
from adaptertools.tensorheader import encode_header as encode_header
from adaptertools.tensorheader import read_header as read_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# How numpy spells the dtypes of arithmetic, and those of packed weights.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_OTHERS = {"U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64", "F8_E4M3": "float8_e4m3fn",
           "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}  # fmt: skip


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
