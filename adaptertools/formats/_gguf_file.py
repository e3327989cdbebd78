"""GGUF, the container: its keys and where its tensors lie, read without the gguf package.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Everything comes from a stranger.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from adaptertools.errors import Unreadable, shown

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
_STRING, _ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
           11: "<q", 12: "<d"}  # fmt: skip
_LISTED = 4096  # numbers of an array that are kept; of longer ones only the length
_LONGEST = 1 << 20  # bytes of a string that is kept
_MOST = 100_000  # tensors; the largest model has some thousands

# Type number -> name, elements in a block, bytes of a block. Others have names and shapes only.
KINDS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 8: ("Q8_0", 32, 34)}


class Held(NamedTuple):
    """One tensor: its kind is empty, and its size unknown, where adaptertools reads no such."""

    name: str
    kind: str
    shape: tuple[int, ...]  # rows first, as numpy has it
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a file says of itself. An array that is not kept is its length."""

    path: Path
    keys: Mapping[str, Any]
    tensors: Mapping[str, Held]

    @property
    def arch(self) -> str:
        """The architecture, empty where none is named."""
        return str(self.keys.get("general.architecture", ""))

    def number(self, key: str) -> int | None:
        """Give a count that the file holds under its architecture's name."""
        value = self.keys.get(f"{self.arch}.{key}")
        return value if type(value) is int else None


def read(path: Path) -> Gguf:
    """Read keys and tensor infos; raise Unreadable where the file is damaged or no GGUF."""
    with path.open("rb") as file:
        source = _Source(file, path)
        if source.take(4) != MAGIC:
            raise Unreadable(f"{shown(path)} is no GGUF file: it does not begin with GGUF.")
        version = source.number("<I")
        if version not in (2, VERSION):
            raise Unreadable(
                f"{shown(path)} is GGUF version {version}; 2 and 3 in little-endian are read. "
                "Convert it again with a current llama.cpp."
            )
        tensors, keys = source.count("<Q", 24), source.count("<Q", 12)
        if tensors > _MOST:
            raise source.damaged(f"it announces {tensors} tensors")
        held: dict[str, Any] = {}
        for _ in range(keys):
            _once(held, source, source.text(), None)
            held[next(reversed(held))] = source.value(source.number("<I"))
        step = held.get("general.alignment", ALIGNMENT)
        if type(step) is not int or step < 1 or step & (step - 1):
            raise source.damaged(f"its alignment is {shown(step)}")
        found: dict[str, Held] = {}
        for _ in range(tensors):
            each = _info(source)
            _once(found, source, each.name, each)
        data = -(-file.tell() // step) * step
        placed = {n: _placed(each, data, source) for n, each in found.items()}
        return Gguf(path, held, placed)


def _once(held: dict[str, Any], source: _Source, name: str, value: Any) -> None:
    if name in held:
        raise source.damaged(f"{shown(name)} is there twice")
    held[name] = value


def _info(source: _Source) -> Held:
    name, axes = source.text(), source.number("<I")
    if not 1 <= axes <= 4:
        raise source.damaged(f"{shown(name)} has {axes} axes")
    shape = tuple(source.number("<Q") for _ in range(axes))[::-1]
    kind, block, size = KINDS.get(source.number("<I"), ("", 1, 0))
    if prod(shape) >= 2**62 or 0 in shape or shape[-1] % block:
        raise source.damaged(f"{shown(name)} has the shape {list(shape)}")
    return Held(name, kind, shape, source.number("<Q"), prod(shape) // block * size)


def _placed(held: Held, data: int, source: _Source) -> Held:
    start = data + held.start
    if start + held.nbytes > source.size:
        raise source.damaged(f"{shown(held.name)} reaches beyond its end; fetch it again")
    return held._replace(start=start)


class _Source:
    """Bytes that are counted before they are believed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.size = os.fstat(file.fileno()).st_size

    def damaged(self, why: str) -> Unreadable:
        return Unreadable(f"{shown(self._path)} is no whole GGUF file: {why}.")

    def take(self, count: int) -> bytes:
        data = self._file.read(count) if count <= self.size - self._file.tell() else b""
        if len(data) < count:
            raise self.damaged("it ends in its header; fetch it again")
        return data

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, code: str, least: int) -> int:
        """Read how many items follow, each of which has at least so many bytes."""
        count: int = self.number(code)
        if count * least > self.size - self._file.tell():
            raise self.damaged(f"it announces {count} items that it has no room for")
        return count

    def text(self) -> str:
        length = self.count("<Q", 1)
        if length > _LONGEST:
            raise self.damaged(f"a text in it has {length} bytes")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a text in it is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == _STRING:
            return self._text_or_length()
        if kind != _ARRAY:
            raise self.damaged(f"a value in it is of the unknown type {kind}")
        of = self.number("<I")
        if of not in SCALARS and of != _STRING:
            raise self.damaged(f"an array in it is of the type {of}")
        size = struct.calcsize(SCALARS[of]) if of in SCALARS else 8
        count = self.count("<Q", size)
        if of == _STRING:
            for _ in range(count):
                self._skip(self.count("<Q", 1))
        elif count <= _LISTED:
            return [self.number(SCALARS[of]) for _ in range(count)]
        else:
            self._skip(count * size)
        return count

    def _text_or_length(self) -> Any:
        """Read a text; of one that nobody needs, such as a long template, give the length."""
        length = self.count("<Q", 1)
        if length <= _LONGEST:
            return self.take(length).decode("utf-8", "replace")
        self._skip(length)
        return length

    def _skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)
