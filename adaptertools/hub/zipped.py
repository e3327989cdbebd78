"""Which pieces of a torch.save file tell what it holds: all but the tensors' bytes.

This only chooses what to fetch. What it means is judged by `picklefile`, from the bytes alone.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

from adaptertools.hub.ranges import Pieces

TAIL = 32_768  # bytes; the directory of some hundred tensors
LARGEST = 20_000_000  # bytes that are fetched for a listing at most
_AFTER = 56 + 20 + 22  # bytes that follow the directory at most
_MOST = 8  # pieces
_NEAR = 4096  # pieces that lie nearer are fetched as one

Part = tuple[int, bytes]


def parts(file: Pieces) -> list[Part]:
    """Fetch end, directory, and every entry that is no tensor's; of what is odd, both ends."""
    start = max(0, file.size - TAIL)
    found = [(start, file.read(start, file.size))]
    if start == 0:
        return found
    try:
        spans = _listed(file, found)
    except (struct.error, ValueError, IndexError):
        spans = []
    for begin, end in spans or [(0, min(start, TAIL))]:
        found.append((begin, file.read(begin, end)))
    return found


def sound(path: Path) -> bool:
    """Tell whether a file ends as a zip does, and begins so."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(22, path.stat().st_size), 2)
        return head == b"PK\3\4" and file.read(4) == b"PK\5\6"


def _listed(file: Pieces, found: list[Part]) -> list[tuple[int, int]]:
    """Complete the directory, and give what is still to be fetched."""
    start, tail = found[0]
    at, length = _directory(tail)
    if not 0 <= file.size - at - length <= _AFTER or at < 0 or length > LARGEST:
        return []
    if at < start:
        begin = max(0, at - _NEAR)  # what torch writes after the tensors lies here
        found.insert(0, (begin, file.read(begin, start)))
    whole = b"".join(data for _, data in found)
    spans = _wanted(whole[at - found[0][0] :][:length], at)
    return _missing(spans, found[0][0])


def _directory(tail: bytes) -> tuple[int, int]:
    """Find the directory: where it is, and how long."""
    length, at = struct.unpack_from("<2L", tail, len(tail) - 22 + 12)
    if tail[-42:-38] == b"PK\6\7" and len(tail) >= 98:
        length, at = struct.unpack_from("<2Q", tail, len(tail) - 98 + 40)
    return at, length


def _wanted(directory: bytes, end: int) -> list[tuple[int, int]]:
    """Give the spans, local headers and all, of the entries beside `…/data/N`."""
    heads: dict[int, bool] = {}
    at = 0
    while at < len(directory):
        size, name, extra, comment, header = struct.unpack_from("<L3H8xL", directory, at + 24)
        own = directory[at + 46 : at + 46 + name]
        more = directory[at + 46 + name :][:extra]
        if header == 0xFFFFFFFF:
            # Offsets beyond 4 GB stand last in the extra field, after the sizes that need it too.
            (header,) = struct.unpack_from("<Q", more, 4 + 16 * (size == 0xFFFFFFFF))
        heads[header] = b"/data/" not in own
        at += 46 + name + extra + comment
    places = [*sorted(heads), end]
    return [(a, b) for a, b in pairwise(places) if heads[a]]


def _missing(spans: list[tuple[int, int]], known: int) -> list[tuple[int, int]]:
    """Join neighbours, and leave out what lies after `known`; nothing where it would be much."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        end = min(end, known)
        if begin >= end:
            continue
        if joined and begin - joined[-1][1] < _NEAR:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    small = sum(end - begin for begin, end in joined) <= LARGEST and len(joined) <= _MOST
    return joined if small else []
