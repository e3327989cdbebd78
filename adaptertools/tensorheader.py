"""The header of a safetensors file, read with json alone and written.

Reading it imports neither torch nor numpy. Everything in it comes from a stranger and is checked
before it is believed: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from adaptertools.errors import NotFound, Unreadable, shown
from adaptertools.jsoncost import cost

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
_MOST = 16  # bytes of memory per byte of the longest header: tensors take less, empty lists 65
_LIMIT = 2**63  # nothing is counted beyond
MAX_NAME, _LONG = 1000, 200  # letters of a name; and of one whose dots are not counted

# Bits per element of every dtype that safetensors 0.8 knows.
BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip

_ENTRY = {"dtype", "shape", "data_offsets"}
_FIELDS = itemgetter("dtype", "shape", "data_offsets")


class TensorSpec(NamedTuple):
    """Where one tensor lies: dtype, shape, file and absolute byte range, from the header.

    A tuple, because there are many: it is made in a third of the time of a frozen dataclass.
    """

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


def read_header(path: str | Path, largest: int = MAX_HEADER) -> Header:
    """Read and check the header of a safetensors file.

    Raises NotFound where there is no such file and Unreadable for anything that is not a whole,
    well-formed safetensors file: a header longer than the file or than `largest` bytes, duplicate
    names, unknown dtypes, byte counts that do not fit dtype and shape, overlaps, holes, lost bytes.
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
        if length > largest:
            raise Unreadable(
                f"{shown(path)} has a header of {length} bytes, and {largest} are enough for any "
                "adapter. It was not read."
            )
        raw += file.read(length)
    entries = _json(raw, path, largest)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Unreadable(f"{shown(path)}: __metadata__ in the header is not a map of strings.")
    specs = [_spec(name, entry, str(path), len(raw)) for name, entry in _emptied(entries)]
    specs.sort(key=attrgetter("start", "stop"))
    _check_ranges(specs, path, len(raw), size)
    return Header(str(path), raw, {spec.name: spec for spec in specs}, metadata)


def _json(raw: bytes, path: Path, largest: int) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
            raise Unreadable(f"{shown(path)}: the header names {shown(twice)} twice.")
        return made

    if cost(raw) > _MOST * largest:
        raise Unreadable(f"{shown(path)}: the header holds more lists than any tensors need.")
    try:
        text = str(memoryview(raw)[8:], "utf-8")
        entries = json.loads(text)
        if text.count(":") != _members(entries):  # a name twice, or colons in names
            del entries
            entries = json.loads(text, object_pairs_hook=unique)
        if b"\\u" in raw:  # half a surrogate pair is JSON to Python, and no text to anyone
            json.dumps(entries, ensure_ascii=False).encode("utf-8")
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{shown(path)}: the header is not JSON: {shown(error)}.") from None
    if not isinstance(entries, dict):
        raise Unreadable(f"{shown(path)}: the header is not a JSON object.")
    return entries


def _members(entries: Any) -> int:
    """Count the names that a header holds, each of which has a colon in the text."""
    if not isinstance(entries, dict):
        return 0
    return len(entries) + sum(len(entry) for entry in entries.values() if isinstance(entry, dict))


def _emptied(entries: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the entries and let go of them: what is made of them takes as much again."""
    while entries:
        yield entries.popitem()


def _spec(name: str, entry: Any, file: str, data: int) -> TensorSpec:
    if len(name) > _LONG and (len(name) > MAX_NAME or name.count(".") > _LONG // 2):
        raise _refused(name, file, f"has a name of {len(name)} letters, which no tensor needs.")
    if not isinstance(entry, dict) or len(entry) != 3 or entry.keys() != _ENTRY:
        raise _refused(name, file, "is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = _FIELDS(entry)
    if not isinstance(dtype, str) or dtype not in BITS:
        known = ", ".join(BITS)
        raise _refused(name, file, f"has the unknown dtype {shown(dtype)}. Known: {known}.")
    count = _product(shape)
    if count is None or _product(offsets) is None or len(offsets) != 2:
        raise _refused(name, file, "has a shape or offsets that are not lists of counts.")
    if count >= _LIMIT:
        raise _refused(name, file, "has more elements than can be counted.")
    start, stop = offsets
    bits = count * BITS[dtype]
    if bits % 8 or stop - start != bits // 8:
        raise _refused(
            name, file,
            f"of {dtype} {shown(list(shape))} takes {bits // 8}{'.5' * (bits % 8 == 4)} bytes, and "
            f"the header gives it {stop - start}.",
        )  # fmt: skip
    return TensorSpec(name, dtype, tuple(shape), file, data + start, data + stop)


def _product(counts: Any) -> int | None:
    """Multiply counts, as far as they can be counted; None where it is no list of counts."""
    if not isinstance(counts, list):
        return None
    product = 1
    for count in counts:
        if type(count) is not int or not 0 <= count < _LIMIT:
            return None
        if product < _LIMIT:  # what cannot be counted stays so, whatever comes after it
            product *= count
    return product


def _refused(name: str, file: str, why: str) -> Unreadable:
    return Unreadable(f"{shown(file)}: tensor {shown(name)} {why}")


def _check_ranges(specs: list[TensorSpec], path: Path, data: int, size: int) -> None:
    end, before = data, "the header"
    for spec in specs:
        if spec.start != end:
            fault = "overlaps" if spec.start < end else "leaves a hole after"
            raise Unreadable(f"{shown(path)}: tensor {shown(spec.name)} {fault} {shown(before)}.")
        end, before = spec.stop, spec.name
    if end != size:
        fault = "is cut short" if size < end else "has bytes that no tensor owns"
        raise Unreadable(
            f"{shown(path)} {fault}: {size} bytes, the header describes {end}. Fetch it again."
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
