"""ONNX Runtime's adapter container: a flatbuffer of named tensors.

The schema is onnxruntime/lora/adapter_format/adapter_schema.fbs. Its two tables have four fields of
four bytes each, so they share one vtable; every offset points forwards, as flatbuffers ask.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.tensorfile import raw_bytes

if TYPE_CHECKING:
    from adaptertools.update import Array

KINDS = {"F32": 1, "F16": 10}  # TensorDataType
MOST = 2**31 - 1  # bytes of a flatbuffer

_VERSIONS = (1, 1, 1)  # of the format, the adapter and the model, as Olive writes them
_VTABLE = struct.pack("<6H", 12, 20, 4, 8, 12, 16)
_TABLE = 20  # bytes: the way to its vtable, and four fields
_ROOT = 8 + len(_VTABLE)


class _Parameter(NamedTuple):
    name: bytes
    kind: int
    shape: tuple[int, ...]
    at: int  # of its bytes' length, counted from the first byte behind the head


def save(path: Path, tensors: Iterable[tuple[str, str, Array]]) -> tuple[int, int]:
    """Write names, dtypes' codes and arrays, one in memory at a time; give how many, and how large.

    Raises Unreadable for a name that comes twice, Unsupported for more than a flatbuffer holds.
    """
    import numpy as np

    held: dict[str, _Parameter] = {}
    body, total = path.with_name(f"{path.name}.data"), 0
    with body.open("wb") as data:
        for name, code, values in tensors:
            if name in held:
                raise Unreadable(f"{shown(name)} would be written twice: two tensors become one.")
            data.write(_gap(data.tell(), 4))
            held[name] = _Parameter(name.encode(), KINDS[code], values.shape, data.tell())
            data.write(struct.pack("<I", values.nbytes))
            data.write(raw_bytes(np.ascontiguousarray(values)))
            total += values.nbytes
            if data.tell() > MOST:
                raise Unsupported(
                    "An ONNX adapter is a flatbuffer, of at most 2 GiB, and these factors are "
                    "larger. Pass --dtype float16, or resize the adapter to a smaller rank."
                )
    with path.open("wb") as made, body.open("rb") as data:
        made.write(_head(list(held.values())))
        shutil.copyfileobj(data, made, 1 << 23)
        made.flush()
        os.fsync(made.fileno())
    body.unlink()
    return len(held), total


def _head(held: Sequence[_Parameter]) -> bytes:
    """Give all but the tensors' bytes, of a length that eight divides."""
    listed = _ROOT + _TABLE
    first = listed + 4 * (1 + len(held))
    tables = range(first, first + _TABLE * len(held), _TABLE)
    texts, places = _texts(held, tables.stop)
    size = tables.stop + len(texts)
    made = struct.pack("<I", _ROOT) + b"TORT" + _VTABLE
    made += struct.pack("<i3iI", _ROOT - 8, *_VERSIONS, listed - (_ROOT + 16))
    made += struct.pack("<I", len(held))
    made += b"".join(struct.pack("<I", at - (listed + 4 * (1 + i))) for i, at in enumerate(tables))
    for at, each, (name, shape) in zip(tables, held, places, strict=True):
        made += struct.pack(
            "<iIIiI", at - 8, name - (at + 4), shape - (at + 8), each.kind,
            size + each.at - (at + 16),
        )  # fmt: skip
    return made + texts


def _texts(held: Sequence[_Parameter], start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Give names and shapes as they lie from `start` on, and where each of them does."""
    made, places = bytearray(), []
    for each in held:
        name = start + len(made)
        made += struct.pack("<I", len(each.name)) + each.name + b"\0"
        made += _gap(start + len(made), 4)
        places.append((name, start + len(made)))
        made += struct.pack(f"<I{len(each.shape)}q", len(each.shape), *each.shape)
        made += b"\0" * (-len(made) % 4)
    return bytes(made + b"\0" * (-(start + len(made)) % 8)), places


def _gap(at: int, rest: int) -> bytes:
    """Fill up to where a length of four bytes is followed by what eight must divide."""
    return b"\0" * ((rest - at) % 8)
