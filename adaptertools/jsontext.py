"""JSON as it stands in a file: its value, what is wrong with it, and where everything is.

`json.loads` gives the value; what it passes over is found by a second look at text that it took.
Nothing recurses or backtracks: each pass takes time in proportion to the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import isinf
from typing import Any

from adaptertools.errors import shown
from adaptertools.jsonplaces import Places

MAX_BYTES = 5_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 64
MAX_DIGITS = 40
_MAX_PROBLEMS = 100
_ENDLESS = 1000  # a number of more letters becomes None: converting it could take long

# It can match at the end of the text, or it would be tried again at every letter.
_BRACKET = re.compile(r'[^"\[\]{}]*+(?:"(?:[^"\\]|\\.)*+(?:"|\Z)[^"\[\]{}]*+)*+([\[\]{}]|\Z)', re.S)
_NUMBER = re.compile(r"-?\d[-+.eE\d]*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_PYTHON = re.compile(r"None\b|True\b|False\b|nan\b")
_CONSTANTS = ("NaN", "Infinity", "-Infinity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with a JSON text, and where."""

    kind: str  # syntax, encoding, bom, depth, number, size; duplicate, constant (NaN, Infinity)
    text: str
    line: int
    column: int
    pointer: str = ""


@dataclass(frozen=True, eq=False)
class JsonText:
    """A JSON text that was read; the value is None where it could not be."""

    value: Any
    problems: tuple[Problem, ...] = ()
    text: str = ""  # empty where it is no JSON

    def at(self, pointer: str) -> tuple[int, int]:
        """Give line and column, from 1, of the value at an RFC 6901 pointer.

        Where there is no such value, those of the nearest parent that is there.
        """
        return _line(self.text, self._places.value[self._places.find(pointer)])

    def key_at(self, pointer: str) -> tuple[int, int]:
        """Give the place of a member's name instead, for what is wrong with the name."""
        return _line(self.text, self._places.key[self._places.find(pointer)])

    @cached_property
    def _places(self) -> Places:
        return Places(self.text)


def read(data: bytes, *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES) -> JsonText:
    """Read a JSON text with its positions; nothing is raised, whatever the bytes are.

    The value is that of json.loads. It is None, and a problem says why, for what is not UTF-8, not
    JSON, too large or nested too deep. These problems leave it: a byte order mark, duplicate keys,
    NaN and Infinity, halves of surrogate pairs, numbers of more than 40 digits. A number of more
    than a thousand letters is None.
    """
    if len(data) > max_bytes:
        return _refused("size", f"more than {max_bytes / 1e6:g} MB", "", 0)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        hint = "; it looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        return _refused("encoding", f"no UTF-8 at byte {error.start}{hint}", before, len(before))
    if not text.startswith("\ufeff"):
        return _parsed(text, (), max_values)
    mark = _problem("bom", "a byte order mark before the text", "", 0)
    return _parsed(text[1:], (mark,), max_values)


def _parsed(text: str, before: tuple[Problem, ...], max_values: int) -> JsonText:
    opened = text.count("[") + text.count("{")
    if opened + text.count(",") > max_values:
        return _refused("size", f"more than {max_values} values", text, 0, before)
    if opened > MAX_DEPTH and (at := _too_deep(text)) >= 0:
        return _refused("depth", f"nested more than {MAX_DEPTH} deep", text, at, before)
    odd: set[str] = set()
    try:
        value = _value(text, odd)
    except json.JSONDecodeError as error:
        words, at = _explained(error, text)
        return _refused("syntax", words, text, at, before)
    if (half := _HALF.search(text)) and not _encodable(value):
        words = "half of a surrogate pair, which is no character"
        before = (*before, _problem("encoding", words, text, half.start()))
    if not odd:
        return JsonText(value, before, text)
    return JsonText(value, (*before, *islice(_oddities(Places(text)), _MAX_PROBLEMS)), text)


def _value(text: str, odd: set[str]) -> Any:
    """Read as json.loads does, and note what it takes without a word."""

    def members(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            odd.add("duplicate")
        return value

    def number(word: str) -> int | float | None:
        if len(word) > MAX_DIGITS:
            odd.add("number")
        if len(word) > _ENDLESS:
            return None
        value = int(word) if word.lstrip("-").isdigit() else float(word)
        if isinstance(value, float) and isinf(value):
            odd.add("number")
        return value

    def constant(word: str) -> float:
        odd.add("constant")
        return float(word)

    return json.loads(
        text, object_pairs_hook=members, parse_int=number, parse_float=number,
        parse_constant=constant,
    )  # fmt: skip


def _oddities(places: Places) -> Iterator[Problem]:
    """Find again what reading the value showed to be somewhere."""
    text = places.text
    for node, at in enumerate(places.value):
        if words := _odd_number(text, at):
            yield _problem("number", words, text, at, places.pointer(node))
        for word in _CONSTANTS:
            if text.startswith(word, at):
                yield _problem("constant", f"{word} is no JSON", text, at, places.pointer(node))
        seen: set[str] = set()
        for child in places.children(node) if text[at] == "{" else ():
            name = places.name(child)
            if name in seen:
                words = f"{shown(name)!r} is there twice, and the last one counts"
                key = places.key[child]
                yield _problem("duplicate", words, text, key, places.pointer(child))
            seen.add(name)


def _odd_number(text: str, at: int) -> str:
    if not (match := _NUMBER.match(text, at)):
        return ""
    word = match.group()
    if sum(map(str.isdigit, word)) > MAX_DIGITS:
        return f"a number of more than {MAX_DIGITS} digits"
    return "a number too large for a computer" if isinf(float(word)) else ""


def _too_deep(text: str) -> int:
    """Give the offset of the first bracket that nests too deep, or -1."""
    depth = 0
    for match in _BRACKET.finditer(text):
        sign = match.group(1)
        depth += (sign in "[{") - (sign in "]}") if sign else 0
        if depth > MAX_DEPTH:
            return match.start(1)
    return -1


def _explained(error: json.JSONDecodeError, text: str) -> tuple[str, int]:
    """Say what stands there instead of JSON; offset of it."""
    at = error.pos
    before = text[max(0, at - 1000) : at].rstrip()
    here = text[at : at + 20].lstrip()
    if not text.strip():
        return "the file is empty", 0
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the file itself", 0
    if here.startswith(("//", "/*", "#")):
        return "a comment, which JSON does not have", at
    if here[:1] in ("}", "]") and before.endswith(","):
        return "a comma after the last item", at - (len(text[:at]) - len(text[:at].rstrip())) - 1
    if here.startswith("'"):
        return "single quotes; JSON has double ones only", at
    if word := _PYTHON.match(here):
        return f"{word.group()} is Python; JSON writes null, true, false", at
    return f"no JSON: {error.msg.removesuffix(' at')}", at


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refused(
    kind: str, words: str, text: str, at: int, before: tuple[Problem, ...] = ()
) -> JsonText:
    return JsonText(None, (*before, _problem(kind, words, text, at)))


def _problem(kind: str, words: str, text: str, at: int, pointer: str = "") -> Problem:
    line, column = _line(text, at)
    return Problem(kind=kind, text=words, line=line, column=column, pointer=pointer)


def _line(text: str, at: int) -> tuple[int, int]:
    """Give line and column, from 1, of an offset; a line ends with a line feed."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
