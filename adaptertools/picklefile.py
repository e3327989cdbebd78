"""The file that torch.save writes, read without unpickling: names, dtypes, shapes, byte ranges.

Unpickling runs whatever the file says. Here its opcodes are listed, and only those that saved
tensors need are followed, on plain tuples; nothing is imported or called.
https://docs.python.org/3/library/pickletools.html#pickletools.genops
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from operator import mul
from pathlib import Path
from typing import Any, BinaryIO

from adaptertools._pickle_ops import Names, Window, opcodes
from adaptertools._pickle_vm import ALLOWED, Machine, Tensor
from adaptertools._pickle_zip import Refused, Stored, entries
from adaptertools.errors import NotFound, shown
from adaptertools.tensorfile import BITS, TensorSpec

MAX_PICKLE = 64_000_000  # bytes of data.pkl

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch before 1.6 begins with this pickle


@dataclass(frozen=True, slots=True)
class Strided:
    """Where the elements of a tensor lie that is no one piece: a transposed or sliced view."""

    start: int  # absolute, of the first element
    strides: tuple[int, ...]  # elements to the next along each axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a pickle file says of itself.

    `tensorfile.read` takes the spec of a tensor that lies in one piece. The others are in `strided`
    too, and their specs begin before the file, so that nobody reads them as if they did.
    Tensors may share bytes.
    """

    file: str
    globals: tuple[str, ...] = ()  # what it refers to, whether allowed or not
    refused: str = ""  # why it is not read: a clause that begins with `it`
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)  # in the order of the file
    strided: Mapping[str, Strided] = field(default_factory=dict)
    others: tuple[str, ...] = ()  # names of values that are no tensors


def foreign(names: Iterable[str]) -> tuple[str, ...]:
    """Give those of a pickle's globals that saved tensors do not need."""
    known = {name.replace(" ", ".") for name in ALLOWED}
    return tuple(name for name in names if name not in known)


def read(path: str | Path, *, partly: bool = False, inside: str = "") -> Listing:
    """List what a pickle file holds; what cannot be read safely is `refused`, with the reason.

    With `partly` the tensors' bytes and the zip's headers before them may be holes, as in a file of
    which only the listing was fetched. Where tensors begin is then known to some bytes only.
    With `inside`, a file that holds one map under that name is listed as that map.

    Takes at most 300 MB whatever the file says. Raises NotFound where there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"{shown(path)}: no such file. A pickle was expected here.")
    names = Names()
    with path.open("rb") as file:
        try:
            values, keys = _read(file, names, partly)
            if values.keys() == {inside} and isinstance(values[inside], dict):
                values = values[inside]
            tensors, strided, others = _described((values, keys), str(path))
        except Refused as why:
            return Listing(file=str(path), globals=tuple(names.found), refused=shown(why))
    return Listing(
        file=str(path), globals=tuple(names.found), tensors=tensors, strided=strided, others=others
    )


_Held = tuple[dict[Any, Any], Mapping[str, Stored]]  # what the pickle made, entries by storage key


def _read(file: BinaryIO, names: Names, partly: bool) -> _Held:
    size = os.fstat(file.fileno()).st_size
    head = file.read(200)
    if not head.startswith(b"PK\3\4"):
        why = _no_zip(head, size)
        _scan(file, size, names)
        raise Refused(why)
    listed = entries(file, size, partly=partly)
    pickled = [name for name in listed if name.lower().endswith(".pkl")]
    pickles = [name for name in pickled if name.rpartition("/")[2] == "data.pkl"]
    if len(pickled) != 1 or pickles != pickled or pickles[0].count("/") != 1:
        for name in pickled[:10]:
            _run(file, listed[name], names)
        raise Refused(f"it holds {len(pickled)} pickles, where torch.save writes one data.pkl")
    place = pickles[0].removesuffix("data.pkl")
    machine, why = _run(file, listed[pickles[0]], names)
    if why:
        raise Refused(why)
    keys = _keys(file, listed, place)
    for key, storage in machine.storages.items():
        if key not in keys:
            raise Refused(f"it refers to a storage {shown(key)} that is not there")
        if storage.count * BITS[storage.dtype] // 8 != keys[key].size:
            raise Refused(f"it holds a storage {shown(key)} of another size than it says")
    return machine.result(), keys


def _no_zip(head: bytes, size: int) -> str:
    if not size:
        return "it is empty"
    if head.startswith(_LEGACY):
        return "it is written by torch before 1.6; load and save it with a newer one"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS in place of the file"
    if head.startswith(b"\x80"):
        return "it is a bare pickle, and no file of torch.save"
    return f"it is no file of torch.save: it begins with {shown(head[:8])}"


def _scan(file: BinaryIO, size: int, names: Names) -> None:
    """Collect the globals of pickles that stand in a row; of other files, nothing."""
    at = 0
    for _ in range(10):
        file.seek(at)
        modern = file.read(1) == b"\x80"
        own, window = Names(), Window(file, Stored(at, size - at))
        why = _listed(window, own)
        if why and not modern:
            return
        names.found |= own.found
        at += window.tell()
        if why or at >= size:
            return


def _listed(window: Window, names: Names) -> str:
    try:
        for code, arg in opcodes(window):
            names.see(code, arg)
    except Refused as error:
        return str(error)
    return ""


def _run(file: BinaryIO, part: Stored, names: Names) -> tuple[Machine, str]:
    """Follow a pickle; once it is refused, only collect the globals."""
    machine, why = Machine(), ""
    if part.size > MAX_PICKLE:
        return machine, f"it holds a pickle of {part.size} bytes, over {MAX_PICKLE}"
    window = Window(file, part)
    try:
        for code, arg in opcodes(window):
            names.see(code, arg)
            if not why:
                try:
                    machine.step(code, arg)
                except Refused as error:
                    machine, why = Machine(), str(error)
                    window.soon()
    except Refused as error:
        why = why or str(error)
    if not why and window.left:
        why = "it holds something after the end of its pickle"
    return machine, why


def _keys(file: BinaryIO, listed: Mapping[str, Stored], place: str) -> dict[str, Stored]:
    """Give the storages by key; torch.save writes nothing but these and a few notes."""
    if f"{place}version" not in listed:
        raise Refused("it does not say which version of torch's format it is")
    found = {}
    for name, part in listed.items():
        inner = name.removeprefix(place)
        if inner != name and inner.startswith("data/"):
            found[inner.removeprefix("data/")] = part
        elif inner == "byteorder":
            file.seek(part.start)
            if file.read(min(part.size, 10)) != b"little":
                raise Refused("it is written on a machine of other byte order")
        elif inner not in ("data.pkl", "version") and (inner == name or inner[:1] != "."):
            raise Refused(f"it holds {shown(name)}, which torch.save does not write")
    return found


def _described(
    held: _Held, file: str
) -> tuple[dict[str, TensorSpec], dict[str, Strided], tuple[str, ...]]:
    """Say of each tensor where its bytes lie."""
    values, keys = held
    tensors: dict[str, TensorSpec] = {}
    strided: dict[str, Strided] = {}
    others = []
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            others.append(str(name))
            continue
        if any("\ud800" <= char <= "\udfff" for char in name):
            raise Refused("it holds a name that is no text")
        if any(product >= 2**48 for product in accumulate(value.shape, mul)):
            raise Refused(f"it holds {shown(name)}, which has more elements than can be counted")
        width = BITS[value.storage.dtype] // 8
        size = prod(value.shape) * width
        start = keys[value.storage.key].start + value.offset * width * bool(size)
        if not _in_one_piece(value):
            strided[name] = Strided(start, value.stride)
            start = -size
        tensors[name] = TensorSpec(
            name, value.storage.dtype, value.shape, file, start, start + size
        )  # fmt: skip
    return tensors, strided, tuple(others)


def _in_one_piece(tensor: Tensor) -> bool:
    """Tell whether the elements lie one after another, the last axis fastest."""
    step = 1
    for length, stride in zip(tensor.shape[::-1], tensor.stride[::-1], strict=True):
        if length != 1 and stride != step:
            return 0 in tensor.shape
        step *= length
    return True
