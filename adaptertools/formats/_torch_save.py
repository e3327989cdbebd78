"""The file that torch.save writes of tensors, written without torch and without pickling objects.

A zip of stored entries: each tensor's bytes, and a pickle (protocol 2) of a map that names them,
through the globals that torch.load(weights_only=True) allows.
https://docs.python.org/3/library/pickletools.html, torch/serialization.py
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools._pickle_vm import ORDERED, STORAGES, TENSOR
from adaptertools.errors import Unreadable, shown
from adaptertools.formats._normal import code_of
from adaptertools.tensorfile import raw_bytes

if TYPE_CHECKING:
    from adaptertools.update import Array

_KINDS = {code: name for name, code in STORAGES.items()}
_PLACE = "archive"
_ALIGNED = 64  # torch maps tensors into memory where their bytes lie


def save(path: Path, tensors: Iterable[tuple[str, Array]], inside: str = "") -> tuple[int, int]:
    """Write arrays, one in memory at a time, and give how many, and the bytes of their data.

    With `inside`, the map of them lies in another under that name. The pickle comes last, as only
    then all is known. Raises Unreadable for a name that comes twice.
    """
    import numpy as np

    lines: dict[str, bytes] = {}
    total = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as made:
        for name, values in tensors:
            if name in lines:
                raise Unreadable(f"{shown(name)} would be written twice: two tensors become one.")
            key = str(len(lines))
            whole = np.ascontiguousarray(values)
            _entry(made, f"data/{key}", bytes(raw_bytes(whole)) if whole.size else b"")
            lines[name] = _tensor(code_of(values.dtype), key, values.shape)
            total += whole.nbytes
        body = _map(lines)
        _entry(made, "data.pkl", b"\x80\x02" + (_map({inside: body}) if inside else body) + b".")
        _entry(made, "byteorder", b"little")
        _entry(made, "version", b"3\n")
    return len(lines), total


def _entry(made: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Store an entry so that its bytes begin where memory may be mapped."""
    info = zipfile.ZipInfo(f"{_PLACE}/{name}")  # of 1980: files of equal tensors are equal
    begin = made.fp.tell() + 30 + len(info.filename) if made.fp else 0
    room = -(begin + 4) % _ALIGNED
    info.extra = struct.pack("<2sH", b"FB", room) + b"Z" * room
    made.writestr(info, data)


def _tensor(code: str, key: str, shape: tuple[int, ...]) -> bytes:
    """Spell the call that torch rebuilds a tensor with."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    storage = b"(" + _text("storage") + _global(_KINDS[code]) + _text(key) + _text("cpu")
    return b"".join([
        _global(TENSOR), b"(", storage, _number(step), b"tQ", _number(0), _counts(shape),
        _counts(strides[::-1]), b"\x89", _global(ORDERED), b")R", b"tR",
    ])  # fmt: skip


def _map(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(_text(name) + value for name, value in items.items()) + b"u"


def _global(name: str) -> bytes:
    module, _, attribute = name.partition(" ")
    return f"c{module}\n{attribute}\n".encode()


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _counts(values: Any) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
