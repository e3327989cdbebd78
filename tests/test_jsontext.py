"""The JSON reader agrees with json about values, and with the text about places."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptertools import jsontext
from adaptertools.jsontext import JsonText, read

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", ROOT.parent / "shared" / "data"))
REAL = sorted(DATA.rglob("*.json")) if DATA.is_dir() else []
OURS = sorted((ROOT / "schemas").rglob("*.json"))
LINES = json.JSONDecoder()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
keys = st.text(st.sampled_from('ab/~"\\\n0é😀'), max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)
quick = settings(deadline=None, max_examples=200)


def nodes(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value inside a value with its pointer."""
    yield pointer, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from nodes(item, f"{pointer}/{i}")


def value_at(text: str, place: tuple[int, int]) -> Any:
    """Read the value that begins at a line and column."""
    lines = text.split("\n")
    line, column = place
    return LINES.raw_decode("\n".join([lines[line - 1][column - 1 :], *lines[line:]]))[0]


def check_places(text: str) -> None:
    """Hold every place against the text itself."""
    found = read(text.encode())
    for pointer, value in nodes(found.value):
        assert value_at(text, found.at(pointer)) == value, pointer
        key = found.key_at(pointer)
        if pointer and key != found.at(pointer):
            name = pointer.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
            assert value_at(text, key) == name


@pytest.mark.skipif(not REAL, reason="the shared data folder is not there")
def test_every_real_file() -> None:
    pointers = 0
    for path in REAL:
        data = path.read_bytes()
        found = read(data)
        if data.startswith(b"version https://git-lfs"):
            pointers += 1
            assert (found.value, [p.kind for p in found.problems]) == (None, ["syntax"])
            continue
        assert (found.value, found.problems) == (json.loads(data), ()), path
        if len(data) < 20_000:
            check_places(data.decode("utf-8"))
    assert len(REAL) > 290
    assert pointers == 1


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.name)
def test_our_own_files(path: Path) -> None:
    found = read(path.read_bytes())
    assert (found.value, found.problems) == (json.loads(path.read_text("utf-8")), ())


@quick
@given(values, st.sampled_from([None, 0, 2]), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_any_value(value: Any, indent: int | None, ascii_: bool, end: str) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_).replace("\n", end)
    found = read(text.encode())
    assert found.value == json.loads(text)
    assert json.dumps(found.value) == json.dumps(json.loads(text)), "1 is not 1.0, nor true"
    assert found.problems == ()
    check_places(text)


def strictly(data: bytes) -> Any:
    """Read JSON with the standard library, refusing what it takes and the standard does not."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) < len(items):
            raise ValueError("twice")
        return dict(items)

    def constant(word: str) -> None:
        raise ValueError(word)

    return json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)


@settings(deadline=None, max_examples=250)
@given(values, st.data())
def test_spoiled_texts(value: Any, data: st.DataObject) -> None:
    text = bytearray(json.dumps({"a": value}, indent=1).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        piece = data.draw(
            st.sampled_from([b"", b",", b'"', b"}", b"[", b"NaN", b"\xff", b"\\", b"9"])
        )
        text[at : at + data.draw(st.integers(0, 2))] = piece
    found = read(bytes(text))
    try:
        expected = strictly(bytes(text))
    except ValueError:
        assert found.problems
    else:
        assert found.value == expected
        # Half of a surrogate pair is JSON to Python, and no text to anyone.
        assert not [p for p in found.problems if "surrogate" not in p.text]
    for problem in found.problems:
        assert problem.line >= 1
        assert problem.column >= 1


@quick
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    found = read(data)
    assert found.value is not None or found.problems or data.strip() == b"null"
    assert found.at("/a/0")[0] >= 1


FAULTS: dict[str, tuple[bytes, str, str, tuple[int, int]]] = {
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', "bom", "byte order mark", (1, 1)),
    "comment": (b'{\n  "a": 1, // one\n}', "syntax", "comment", (2, 11)),
    "hash": (b'{"a": 1, # one\n}', "syntax", "comment", (1, 10)),
    "comma in object": (b'{"a": 1,\n}', "syntax", "comma", (1, 8)),
    "comma in list": (b"[1, 2, ]", "syntax", "comma", (1, 6)),
    "single quotes": (b"{'a': 1}", "syntax", "single quotes", (1, 2)),
    "Python": (b'{"a": None}', "syntax", "None is Python", (1, 7)),
    "empty": (b"", "syntax", "empty", (1, 1)),
    "blank": (b" \n ", "syntax", "empty", (1, 1)),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", "syntax", "Git LFS", (1, 1)),
    "two": (b"{} {}", "syntax", "Extra data", (1, 4)),
    "cut off": (b'{"a": [1, 2', "syntax", "no JSON", (1, 12)),
    "control": (b'{"a": "\n"}', "syntax", "control", (1, 8)),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "encoding", "UTF-16", (1, 1)),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "encoding", "byte 7", (1, 8)),
    "half a pair": (rb'{"a": "\ud800"}', "encoding", "surrogate", (1, 8)),
    "duplicate": (b'{"a": 1,\n "a": 2}', "duplicate", "'a' is there twice", (2, 2)),
    "duplicate, escaped": (rb'{"a": 1, "\u0061": 2}', "duplicate", "'a'", (1, 10)),
    "NaN": (b'{"a": [1, NaN]}', "constant", "NaN", (1, 11)),
    "Infinity": (b'{"a": -Infinity}', "constant", "-Infinity", (1, 7)),
    "digits": (b'{"a": 1' + 40 * b"0" + b"}", "number", "40 digits", (1, 7)),
    "decimals": (b'{"a": 0.' + 41 * b"1" + b"}", "number", "40 digits", (1, 7)),
    "endless": (b"[" + 5000 * b"9" + b"]", "number", "40 digits", (1, 2)),
    "too large": (b"[1e999]", "number", "too large", (1, 2)),
    "deep": (65 * b"[" + 65 * b"]", "depth", "64", (1, 65)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    data, kind, words, place = FAULTS[name]
    (problem,) = read(data).problems
    assert (problem.kind, (problem.line, problem.column)) == (kind, place)
    assert words in problem.text


def test_what_is_readable_all_the_same_is_read() -> None:
    assert read(FAULTS["byte order mark"][0]).value == {"a": 1}
    assert read(FAULTS["duplicate"][0]).value == {"a": 2}
    assert read(FAULTS["digits"][0]).value == {"a": 10**40}
    assert read(FAULTS["endless"][0]).value == [None]
    for name in ("comment", "UTF-16", "deep", "empty", "cut off"):
        assert read(FAULTS[name][0]).value is None


def test_limits_are_just_not_reached() -> None:
    for text in (64 * "[" + 64 * "]", "1" * 40, "-0." + 38 * "1" + "e5", '"' + "x" * 5000 + '"'):
        found = read(text.encode())
        assert (found.value, found.problems) == (json.loads(text), ())
    assert not read(b"[" + b"0," * 99_998 + b"0]").problems
    assert read(b"[" + b"0," * 100_000 + b"0]").problems[0].kind == "size"
    assert read(b" " * 5_000_001).problems[0].kind == "size"
    assert read(b"[" + b"0," * 100_000 + b"0]", max_values=10**6).problems == ()
    assert read(b"[1, 2]", max_bytes=5).problems[0].kind == "size"


def test_a_missing_pointer_is_at_the_nearest_parent() -> None:
    found = read(b'{\n  "a": [1,\n    {"b": 2}],\n  "a/b~c": 3\n}')
    assert found.at("/a/1/b") == (3, 11)
    assert found.key_at("/a/1/b") == (3, 6)
    assert found.at("/a/1/c/d") == found.at("/a/1") == (3, 5)
    assert found.at("/a/7") == found.at("/a") == (2, 8)
    assert found.at("/a~1b~0c") == (4, 12)
    assert found.at("/nothing") == found.at("") == found.at("nonsense") == (1, 1)
    twice = read(b'{"a": 1, "a": 2}')
    assert twice.at("/a") == (1, 15), "the last one counts"
    assert JsonText(None).at("/a") == (1, 1)


HOSTILE = {
    "brackets": b"[" * 2_000_000,
    "brackets, few enough to count": b"[" * 90_000,
    "objects": b'{"a":' * 90_000,
    "quotes": b'"' * 2_000_001,
    "escaped quotes": b'["' + b'\\"' * 1_000_000,
    "backslashes": b'["' + b"\\" * 2_000_001,
    "slashes": b"[" + b"/" * 2_000_000,
    "digits": b"9" * 2_000_000,
    "long numbers": b"[" + (b"1" * 990 + b",") * 2_000 + b"0]",
    "duplicates": b"{" + b'"a":1,' * 40_000 + b'"a":2}',
    "a long name over many faults": b'{"' + b"k" * 1_000_000 + b'":[' + b"NaN," * 90_000 + b"1]}",
    "halves": b'["' + b"\\ud800" * 300_000 + b'"]',
    "blanks": b" " * 2_000_000,
    "blanks and an error": b"[" + b" " * 2_000_000 + b"x",
    "commas": b"[1" + b",\n" * 2_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_no_time(name: str) -> None:
    start = time.process_time()
    found = read(HOSTILE[name])
    assert 1 <= len(found.problems) <= 100
    assert all(len(p.pointer) <= jsontext.MAX_DEPTH * 20 for p in found.problems)
    assert found.at("/a/0/0")[0] >= 1
    # A second look at each letter would take hours; 4 s are for a busy machine.
    assert time.process_time() - start < 4
