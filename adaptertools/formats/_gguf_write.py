"""Write a GGUF file: keys, tensor infos, then data at multiples of 32 bytes."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.formats._gguf_file import ALIGNMENT, KINDS, MAGIC, VERSION
from adaptertools.tensorfile import raw_bytes

if TYPE_CHECKING:
    from adaptertools.update import Array

Line = tuple[str, str, tuple[int, ...], "Array"]  # name, kind, shape, and the data as stored

_LONGEST = 63  # bytes of a tensor's name that ggml holds
_NUMBER = {kind: number for number, (kind, _, _) in KINDS.items()}


def save(path: Path, keys: Mapping[str, Any], tensors: Iterable[Line]) -> tuple[int, int]:
    """Write a file, one tensor in memory at a time; give how many, and the bytes of their data.

    Keys are str, float (float32), int (uint32) and lists of int. Raises Unsupported for a name
    that ggml cannot hold, Unreadable for one that comes twice.
    """
    import numpy as np

    infos: dict[str, bytes] = {}
    body = path.with_name(f"{path.name}.data")
    total = 0
    with body.open("wb") as data:
        for name, kind, shape, values in tensors:
            if name in infos:
                raise Unreadable(f"{shown(name)} would be written twice: two modules become one.")
            infos[name] = _info(name, kind, shape, data.tell())
            raw = raw_bytes(np.ascontiguousarray(values))
            data.write(raw)
            data.write(b"\0" * (-len(raw) % ALIGNMENT))
            total += len(raw)
    head = MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(keys))
    head += b"".join(_text(key) + _value(value) for key, value in keys.items())
    head += b"".join(infos.values())
    with path.open("wb") as made, body.open("rb") as data:
        made.write(head + b"\0" * (-len(head) % ALIGNMENT))
        shutil.copyfileobj(data, made, 1 << 23)
        made.flush()
        os.fsync(made.fileno())
    body.unlink()
    return len(infos), total


def _info(name: str, kind: str, shape: Sequence[int], at: int) -> bytes:
    if len(name.encode()) > _LONGEST:
        raise Unsupported(f"{shown(name)} has more than the {_LONGEST} bytes that ggml holds.")
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return _text(name) + dims + struct.pack("<IQ", _NUMBER[kind], at)


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
    return (
        struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
    )
