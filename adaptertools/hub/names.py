"""Names from a stranger's listing: which of them may become a path on this or any machine."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from adaptertools.errors import Unsafe, shown

_DEVICES = re.compile(r"(?i:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?")
_LONGEST = 255  # bytes of one part; what file systems take


def safe_name(name: str) -> str:
    """Give a name back that may become a path below a folder; raise Unsafe for any other."""
    if why := _wrong(name):
        raise Unsafe(f"{shown(name)!r} {why}. It is not made a path; tell the repository's owner.")
    return name


def hostile(names: Iterable[str]) -> dict[str, str]:
    """Say of each name that must not become a path why; the others are safe beside each other.

    Of names that differ in case or composition only, the one in small letters is kept.
    """
    found: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name in sorted(set(names), key=lambda name: (name != name.lower(), name)):
        if why := _wrong(name) or _clash(name, kept):
            found[name] = why
        else:
            kept[_folded(name)] = name
    folders = {_folded("/".join(name.split("/")[:i]))
               for name in kept.values() for i in range(1, name.count("/") + 1)}  # fmt: skip
    for folded in kept.keys() & folders:
        found[kept[folded]] = "is a file and a folder at once"
    return found


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Give the names that look most like one that is not there."""
    lower: Mapping[str, str] = {each.lower(): each for each in known}
    return [lower[each] for each in get_close_matches(name.lower(), lower, count, 0.5)]


def _clash(name: str, kept: Mapping[str, str]) -> str:
    other = kept.get(_folded(name))
    return f"differs from {shown(other)} in case only" if other is not None else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _wrong(name: str) -> str:
    """Say what is wrong with a name; empty where nothing is."""
    if not name or not name.isprintable():
        return "is empty or holds characters that cannot be shown"
    if "\\" in name or ":" in name:
        return "holds a backslash or a colon"
    if name.startswith("/"):
        return "is an absolute path"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "leaves its folder"
        if part.lower() == ".git":
            return "would write into a git repository"
        if _DEVICES.fullmatch(part):
            return "is the name of a device"
        if part[-1] in ". " or len(part.encode()) > _LONGEST:
            return "is not a name that every file system can hold"
    return ""
