"""What is no whole, well-formed safetensors file is refused: each fault by a file of its own.

Whatever the library refuses is refused here too. Exceptions: a minus zero, which means 0.
"""

import struct
from pathlib import Path

import pytest
import safetensors
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from adaptertools.errors import NotFound, Unreadable
from adaptertools.tensorfile import MAX_HEADER, read_header
from tests.handmade import entry, one, whole

shared = settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "0 bytes"),
    "no whole length": (b"1234", "4 bytes"),
    "no header": (bytes(8), "header of 0"),
    "header beyond the end": (struct.pack("<Q", 99) + b"{}", "header of 99"),
    "over 100 MB": (struct.pack("<Q", MAX_HEADER + 1) + b"{}", "header of 100000001"),
    "a pickle": (b"PK\3\4" + bytes(60), "not a safetensors file"),
    "not JSON": (whole(b'{"alpha": '), "not JSON"),
    "not JSON after its end": (whole(b"{}\0"), "not JSON"),
    "not an object": (whole(b"[1, 2]"), "not a JSON object"),
    "not UTF-8": (whole(b'{"\xff": 1}'), "not JSON"),
    "too deep": (whole(b'{"a":' * 5000 + b"1" + b"}" * 5000), "not JSON"),
    "endless number": (whole(b'{"alpha":{"shape":[' + b"9" * 5000 + b"]}}"), "not JSON"),
    "two of one name": (whole(b'{"alpha":1,"alpha":2}'), "alpha twice"),
    "two of one name, with colons": (whole(b'{"a:b":1,"c:d":2,"a:b":3}'), "a:b twice"),
    "two of one note": (whole(b'{"__metadata__":{"a":"b:","a":"c:"}}'), "a twice"),
    "a note in a note": (whole(b'{"__metadata__":{"a":{"b":"c","b":"d"}}}'), "b twice"),
    "a key twice": (whole(b'{"alpha":{"dtype":"F32","dtype":"F16"}}'), "dtype twice"),
    "a long name": (whole({"a" * 1001: entry()}, bytes(4)), "1001 letters"),
    "a name of many parts": (whole({"a." * 101: entry()}, bytes(4)), "202 letters"),
    "not described": (whole({"alpha": 7}), "alpha is not described"),
    "a key more": (whole({"alpha": {**entry(), "x": 1}}, bytes(4)), "alpha is not described"),
    "a key less": (whole({"alpha": {"dtype": "F32", "shape": [1]}}), "alpha is not described"),
    "unknown dtype": (whole(one("Q4"), bytes(4)), "alpha.*Q4"),
    "dtype is a list": (whole(one(["F32"]), bytes(4)), "alpha.*dtype"),
    "too few bytes": (whole(one(shape=[2]), bytes(4)), "alpha.*8 bytes.* 4"),
    "half a byte": (whole(one("F4", [3], [0, 1]), bytes(1)), r"alpha.*1\.5 bytes"),
    "backwards": (whole(one(shape=[0], at=[4, 0]), bytes(4)), "alpha.*-4"),
    "negative": (whole(one(shape=[-1]), bytes(4)), "alpha.*counts"),
    "two negatives": (whole(one(shape=[-1, -1]), bytes(4)), "alpha.*counts"),
    "float": (whole(one(shape=[1.0]), bytes(4)), "alpha.*counts"),
    "bool": (whole(one(shape=[True]), bytes(4)), "alpha.*counts"),
    "huge": (whole(one(shape=[2**63]), bytes(4)), "alpha.*counts"),
    "no list": (whole(one(shape=1), bytes(4)), "alpha.*counts"),
    "negative offset": (whole(one(at=[-4, 0]), bytes(4)), "alpha.*counts"),
    "three offsets": (whole(one(at=[0, 4, 4]), bytes(4)), "alpha.*counts"),
    "out of range": (whole(one(at=[4, 8]), bytes(4)), "alpha leaves a hole"),
    "hole": (whole({**one(), "beta": entry(at=[8, 12])}, bytes(12)), "beta leaves a hole.*alpha"),
    "overlap": (whole({**one(), "beta": entry(at=[2, 6])}, bytes(8)), "beta overlaps alpha"),
    "same place": (whole({**one(), "beta": entry()}, bytes(4)), "overlaps"),
    "trailing bytes": (whole(one(), bytes(5)), "no tensor owns"),
    "truncated data": (whole(one(), bytes(3)), "cut short"),
    "metadata of numbers": (whole({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata a list": (whole({"__metadata__": ["a"]}), "__metadata__"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    raw, message = REFUSED[case]
    path = tmp_path / "some.safetensors"
    path.write_bytes(raw)
    with pytest.raises(Unreadable, match=message) as caught:
        read_header(path)
    assert "some.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_beyond_a_float_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(whole(one(shape=[2**62] * 40), bytes(4)))
    with pytest.raises(Unreadable, match="alpha"):
        read_header(tmp_path / "a")


def test_no_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(NotFound, match=path.name):
            read_header(path)


VALID = whole(
    {"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 1], [0, 8]),
     "b": entry("BF16", [3], [8, 14])}, bytes(14),
)  # fmt: skip


def as_library(raw: bytes, path: Path) -> None:
    """Refuse with our errors only, and refuse whatever the library refuses."""
    assume(b"-0" not in raw)
    path.write_bytes(raw)
    try:
        read_header(path)
    except Unreadable:
        return
    safetensors.deserialize(raw)


@shared
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=3))
def test_flipped_bytes(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    raw = bytearray(VALID)
    for at, byte in flips:
        raw[at] = byte
    as_library(bytes(raw), tmp_path / "a")


@shared
@given(
    st.integers(8, len(VALID) - 15), st.integers(0, 4),
    st.text('0123456789-+.eE{}[]":,\\u aFSTB', max_size=5),
)  # fmt: skip
def test_spliced_headers(tmp_path: Path, at: int, cut: int, put: str) -> None:
    text = VALID[8:at] + put.encode() + VALID[at + cut : -14]
    assume(VALID[at + cut :].endswith(VALID[-14:]))
    as_library(whole(text, VALID[-14:]), tmp_path / "a")


@pytest.mark.parametrize(
    "text",
    [b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
     b'{"__metadata__":{"a":"\\udc00"}}', b'{"__metadata__":{"\\ud800":"a"}}'],
    ids=["name", "metadata", "metadata key"],
)  # fmt: skip
def test_half_a_character(text: bytes, tmp_path: Path) -> None:
    assert_refused_by_both(whole(text), tmp_path / "a")


def test_more_elements_than_can_be_counted(tmp_path: Path) -> None:
    raw = whole(one(shape=[2**62, 2**62, 0], at=[0, 0]))
    assert_refused_by_both(raw, tmp_path / "a")


def assert_refused_by_both(raw: bytes, path: Path) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(raw)
    path.write_bytes(raw)
    with pytest.raises(Unreadable):
        read_header(path)
