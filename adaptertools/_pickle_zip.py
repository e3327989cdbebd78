"""The zip that torch.save writes: stored entries one after another, and nothing else.

Readers of one zip can be made to disagree, by entries that overlap, local headers that lie, two
directories or hidden gaps. A file is read only where there is one way to read it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

MAX_ENTRIES, MAX_DIRECTORY = 100_000, 16_000_000

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_DESCRIBED, _UTF8 = 0x0008, 0x0800  # sizes follow the data; names are UTF-8
_FOLDER = 0x10  # of MS-DOS, in the external attributes
_DESCRIPTOR = 24  # bytes of a data descriptor at most


class Refused(ValueError):
    """Why a pickle file is not read: a clause that begins with `it`."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the bytes of one entry lie."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    flags: int
    crc: int
    size: int
    short: int  # the size as its 32 bits say it
    header: int  # where the local header begins


def entries(file: BinaryIO, size: int, *, partly: bool = False) -> dict[str, Stored]:
    """List the entries of a zip of `size` bytes by their names; raise Refused where it is odd.

    With `partly` local headers may be holes: what was fetched of a file has those of its pickle.
    """
    count, length, at = _directory(file, size)
    file.seek(at)
    listed = sorted(_listed(file.read(length), count), key=lambda entry: entry.header)
    found: dict[str, Stored] = {}
    end, gap = 0, 0  # where the data of the entry before ends, and what may follow it
    for i, entry in enumerate(listed):
        if not end <= entry.header <= end + gap:
            raise Refused("it holds entries that overlap, or bytes that no entry owns")
        if partly and _hole(file, entry):
            start = _room(entry, listed[i + 1].header if i + 1 < len(listed) else at)
        else:
            start = _start(file, entry)
        found[_text(entry.name)] = Stored(start, entry.size)
        end, gap = start + entry.size, _DESCRIPTOR if entry.flags & _DESCRIBED else 0
        if end > at:
            raise Refused("it lists an entry that lies beyond its end")
    if at > end + gap:
        raise Refused("it holds bytes that no entry owns")
    if len({name.lower() for name in found}) < len(listed):
        raise Refused("it holds two entries of one name")
    return found


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Find the one directory: how many entries, how many bytes, where."""
    file.seek(max(0, size - _END64.size - _LOCATOR.size - _END.size))
    tail = file.read()
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise Refused(f"it was cut short: {size} bytes, and no zip directory at their end")
    _, disk, start, here, count, length, at, comment = _END.unpack(tail[-_END.size :])
    end = size - _END.size
    if tail[-_END.size - _LOCATOR.size :][:4] == b"PK\6\7":
        end -= _LOCATOR.size + _END64.size
        longer = _larger(tail, end, (here, count, length, at))
        here, count, length, at = longer
    if disk or start or here != count or comment or at + length != end:
        raise Refused("it has a zip directory that does not describe this file")
    if count > MAX_ENTRIES or length > MAX_DIRECTORY:
        raise Refused(f"it has {count} entries, listed in {length} bytes: too many")
    return count, length, at


def _larger(tail: bytes, end: int, short: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Read the zip64 end, which must say the same as the short one."""
    _, disk, place, disks = _LOCATOR.unpack(tail[-_END.size - _LOCATOR.size : -_END.size])
    record = tail[: _END64.size]
    if disk or disks != 1 or place != end or len(record) < _END64.size or record[:4] != b"PK\6\6":
        raise Refused("it has a zip64 directory that is not where it should be")
    _, length, _, _, disk, start, *values = _END64.unpack(record)
    full = (_FULL16, _FULL16, _FULL32, _FULL32)
    same = all(s in (v, f) for s, v, f in zip(short, values, full, strict=True))
    if length != _END64.size - 12 or disk or start or not same:
        raise Refused("it has two zip directories that differ")
    here, count, size, at = values
    return here, count, size, at


def _listed(raw: bytes, count: int) -> list[_Entry]:
    """Read the directory."""
    found, at = [], 0
    for _ in range(count):
        if len(raw) - at < _CENTRAL.size:
            raise Refused("it has a zip directory that is cut short")
        (sign, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, disk, _, kind,
         header) = _CENTRAL.unpack_from(raw, at)  # fmt: skip
        begin = at + _CENTRAL.size
        at = begin + name + extra + comment
        if sign != b"PK\1\2" or at > len(raw) or disk or comment:
            raise Refused("it has a zip directory that is damaged")
        if method or flags & ~(_DESCRIBED | _UTF8):
            raise Refused("it holds entries that are compressed or encrypted; torch stores them")
        if size and (kind & _FOLDER or raw[begin + name - 1 : begin + name] == b"/"):
            # torch reads nothing there, and gives the memory that it would have read into.
            raise Refused("it holds an entry that is marked as a folder")
        more = _zip64(raw[begin + name : begin + name + extra], (size, packed, header))
        if more[0] != more[1]:
            raise Refused("it holds entries of two sizes")
        found.append(_Entry(raw[begin : begin + name], flags, crc, more[0], size, more[2]))
    if at != len(raw):
        raise Refused("it has a zip directory that lists fewer entries than it holds")
    return found


def _zip64(extra: bytes, values: tuple[int, int, int]) -> list[int]:
    """Take the values that do not fit 32 bits from the extra field."""
    wide = iter(())
    while len(extra) >= 4 and _FULL32 in values:
        kind, length = struct.unpack_from("<2H", extra)
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            whole = body[: len(body) // 8 * 8]
            wide = (number for (number,) in struct.iter_unpack("<Q", whole))
            break
    found = [next(wide, -1) if value == _FULL32 else value for value in values]
    if -1 in found:
        raise Refused("it holds an entry whose zip64 sizes are missing")
    return found


def _start(file: BinaryIO, entry: _Entry) -> int:
    """Give where the data of an entry begins, by a local header that agrees with the directory."""
    file.seek(entry.header)
    raw = file.read(_LOCAL.size + len(entry.name))
    if len(raw) < _LOCAL.size + len(entry.name):
        raise Refused("it lists an entry that lies beyond its end")
    sign, _, flags, method, _, _, crc, *sizes, name, extra = _LOCAL.unpack_from(raw)
    # What follows the data is zero here; what does not fit 32 bits is all ones.
    later = (0,) if entry.flags & _DESCRIBED else ()
    same = (
        (sign, flags, method) == (b"PK\3\4", entry.flags, 0)
        and (name, raw[_LOCAL.size :]) == (len(entry.name), entry.name)
        and crc in (entry.crc, *later)
        and all(size in (entry.short, _FULL32, *later) for size in sizes)
    )
    if not same:
        raise Refused("it holds a local header that says other things than the directory")
    return entry.header + _LOCAL.size + int(name) + int(extra)


def _hole(file: BinaryIO, entry: _Entry) -> bool:
    file.seek(entry.header)
    return not any(file.read(_LOCAL.size + len(entry.name)))


def _room(entry: _Entry, end: int) -> int:
    """Give where the data of an entry begins at the latest, if it fills the room up to the next."""
    start = end - entry.size - (_DESCRIPTOR - 8 if entry.flags & _DESCRIBED else 0)
    if start < entry.header + _LOCAL.size + len(entry.name):
        raise Refused("it holds entries that overlap, or bytes that no entry owns")
    return start


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("it holds an entry whose name is not UTF-8") from None
