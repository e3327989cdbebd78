"""The safetensors file, read and written, against the library that owns the format."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from adaptertools.errors import Unreadable
from adaptertools.tensorfile import (
    BITS,
    FLOATS,
    TensorSpec,
    dtype_of,
    encode_header,
    finite,
    read,
    read_header,
    read_into,
    same,
)
from tests.handmade import entry, whole

NUMPY = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]
TORCH = ["bfloat16", "float16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
         "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"]  # fmt: skip
shared = settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_as_safetensors(path: Path) -> None:
    """Hold names, dtypes, shapes, bytes and metadata against the library's."""
    header, raw = read_header(path), path.read_bytes()
    theirs = {
        name: (found["dtype"], tuple(found["shape"]), bytes(found["data"]))
        for name, found in safetensors.deserialize(raw)
    }
    ours = {
        name: (spec.dtype, spec.shape, raw[spec.start : spec.stop])
        for name, spec in header.tensors.items()
    }
    assert ours == theirs
    assert raw.startswith(header.raw)
    with safetensors.safe_open(path, "np") as file:
        assert header.metadata == (file.metadata() or {})


@pytest.mark.parametrize("code", BITS)
def test_every_dtype_is_read_as_the_library_reads_it(code: str, tmp_path: Path) -> None:
    size, path = 4 * BITS[code] // 8, tmp_path / "a.safetensors"
    tensors = {"b": entry(code, [2, 2], [0, size]), "a": entry(code, [0, 3], [size, size])}
    path.write_bytes(whole(tensors, bytes(range(size))))
    assert_as_safetensors(path)


@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_files(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"x.weight": np.arange(6).reshape(2, 3).astype(dtype), "s": np.array(1, dtype)}
    save_file(tensors, path, {"format": "np", "ключ": "值"})
    assert_as_safetensors(path)


@pytest.mark.parametrize("dtype", TORCH)
def test_torch_files(dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "a.safetensors"
    bits = torch.arange(8, dtype=torch.uint8).reshape(2, 4)
    save_torch({"x": bits.view(getattr(torch, dtype)), "y": torch.zeros(3)}, path)
    assert_as_safetensors(path)


def test_header_is_in_the_order_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole({"late": entry(at=[4, 8]), "early": entry(at=[0, 4])}, bytes(8)))
    assert list(read_header(path).tensors) == ["early", "late"]


def test_colons_in_names_and_notes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a:b": np.zeros(2), "c::d": np.ones(3), "e" * 1000: np.ones(1)}
    save_file(tensors, path, {"url": "https://example.org", "config": '{"r": 8, "a": {"b": 1}}'})
    assert_as_safetensors(path)


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
layouts = st.dictionaries(
    names.filter(lambda n: n != "__metadata__"),
    st.tuples(st.sampled_from(sorted(BITS)), shapes).filter(
        lambda pair: BITS[pair[0]] * prod(pair[1]) % 8 == 0
    ),
    max_size=5,
)


@shared
@given(layouts, st.dictionaries(names, names, max_size=2))
def test_written_headers_are_read_by_the_library(
    tmp_path: Path, layout: dict[str, Any], metadata: dict[str, str]
) -> None:
    tensors = [(name, dtype, shape) for name, (dtype, shape) in layout.items()]
    head = encode_header(tensors, metadata)
    assert len(head) % 8 == 0
    size = sum(prod(shape) * BITS[dtype] // 8 for _, dtype, shape in tensors)
    path = tmp_path / "a.safetensors"
    path.write_bytes(head + bytes(i % 251 for i in range(size)))
    assert_as_safetensors(path)
    header = read_header(path)
    assert sorted((s.name, s.dtype, s.shape) for s in header.tensors.values()) == sorted(tensors)
    assert header.metadata == metadata


@pytest.mark.parametrize("code", FLOATS)
def test_read_gives_what_is_stored(code: str, tmp_path: Path) -> None:
    dtype = dtype_of(code)
    assert (dtype.itemsize * 8, dtype.name) == (BITS[code], FLOATS[code])
    bits = np.arange(1, 13, dtype=f"u{dtype.itemsize}").reshape(2, 3, 2)
    path = tmp_path / "a"
    path.write_bytes(encode_header([("x", code, (2, 3, 2))], {}) + bits.tobytes())
    spec = read_header(path).tensors["x"]
    assert (spec.rows, spec.columns, spec.nbytes) == (2, 6, bits.nbytes)
    assert read(spec).dtype == dtype
    np.testing.assert_array_equal(read(spec).view(bits.dtype), bits)


def test_read_of_a_scalar_and_of_nothing(tmp_path: Path) -> None:
    save_file({"s": np.array(2.5), "none": np.zeros((0, 3))}, tmp_path / "a")
    tensors = read_header(tmp_path / "a").tensors
    assert (tensors["s"].rows, tensors["s"].columns) == (1, 1)
    assert read(tensors["s"]) == np.float64(2.5)
    assert read(tensors["none"]).shape == (0, 3)


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_file({"x": np.zeros(8)}, path)
    spec = read_header(path).tensors["x"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Unreadable, match="ended"):
        read(spec)
    with path.open("rb") as file, pytest.raises(Unreadable, match="ended"):
        read_into(file.fileno(), np.zeros(2), path.stat().st_size)


def specs(path: Path, **arrays: Any) -> dict[str, TensorSpec]:
    """Save arrays and give their specs."""
    save_file(arrays, path)
    assert load_file(path).keys() == arrays.keys()
    return dict(read_header(path).tensors)


def test_same_is_dtype_shape_and_every_byte(tmp_path: Path) -> None:
    big = np.zeros(400_000)  # more than two readings
    late = big.copy()
    late[-1] = 1e-300
    a = specs(tmp_path / "a", x=big, other=np.ones(3))
    b = specs(tmp_path / "b", first=np.ones(2), x=big, flat=big.reshape(2, -1), late=late,
              ints=big.view(np.int64), minus=-big)  # fmt: skip
    assert same(a["x"], b["x"])
    for name in ("flat", "late", "ints", "minus", "first"):
        assert not same(a["x"], b[name]), name


@pytest.mark.parametrize("code", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite_finds_one_bad_element(code: str, bad: float, tmp_path: Path) -> None:
    for place in (None, 0, 1_200_000):
        values = np.full(1_200_001, float(np.finfo(np.float16).max)).astype(dtype_of(code))
        if place is not None:
            values[place] = bad
        path = tmp_path / "a"
        head = encode_header([("x", code, (len(values),))], {})
        path.write_bytes(head + values.tobytes())
        assert finite(read_header(path).tensors["x"]) is (place is None)


def test_finite_where_squares_overflow(tmp_path: Path) -> None:
    tensors = specs(tmp_path / "a", x=np.full(4, 3e38, np.float32), none=np.zeros((0,)))
    assert finite(tensors["x"])
    assert finite(tensors["none"])
