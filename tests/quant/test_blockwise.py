"""Scales of scales, and the quant_state, against bitsandbytes."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptertools.errors import Unsupported
from adaptertools.quant import _blockwise, _state, nf4

bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is the oracle")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    # Small tensors only: several threads would wait for each other, and more so on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def library(scales: Any) -> tuple[Any, Any, Any, float]:
    """What quantize_4bit does to its absmax: codes, their scales, the state, the offset."""
    absmax = torch.tensor(scales)
    offset = absmax.mean()
    codes, state = bnb.quantize_blockwise(absmax - offset, blocksize=256)
    return codes.numpy(), state.absmax.numpy(), state, offset.item()


def check(scales: Any) -> None:
    scales = np.asarray(scales, np.float32)
    codes, absmax, offset = _blockwise.compress(scales)
    theirs, their_absmax, _, their_offset = library(scales)
    assert offset == their_offset
    assert np.array_equal(absmax, their_absmax)
    assert np.array_equal(codes, theirs)


def test_map_is_that_of_bitsandbytes() -> None:
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch.linspace rounds twice on a CPU without AVX2, and the map depends on it")
    assert np.array_equal(_blockwise.dynamic_map(), bnb.create_dynamic_map().numpy())


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 1000, 300_000])
def test_codes_are_those_of_bitsandbytes(count: int) -> None:
    random = np.random.default_rng(count)
    check(random.uniform(0.01, 0.1, count))
    check(np.exp(random.normal(0, 4, count)))
    check(random.standard_normal(count) * 1e-38)
    check(random.standard_normal(count) * 1e34)


def test_edges_between_codes_are_those_of_bitsandbytes() -> None:
    # Where the table of 65536 places passes from one code to the next, a thousand floats around.
    places = _blockwise._places().astype(int)
    edges = (np.flatnonzero(np.diff(places)) + 0.5) / 65535 * 2 - 1
    near = (edges[:, None] * (1 + np.arange(-500, 500) * 2.0**-24)).reshape(-1)
    for size in np.array([1, 0.37, 5], "f4"):
        values = np.append(near, np.zeros(-len(near) % 255)).astype("f4").reshape(-1, 255) * size
        rows = np.concatenate([values, np.full((len(values), 1), size)], axis=1)
        check(np.concatenate([rows, -rows]).reshape(-1))  # their mean is 0, or nearly


def test_scales_that_are_all_equal() -> None:
    check(np.zeros(300))
    check(np.full(300, 0.25))
    check(np.full(300, 1e-45))


@pytest.mark.parametrize("scale", [np.nan, np.inf, 3e38])
def test_an_offset_that_is_not_finite_is_refused(scale: float) -> None:
    with pytest.raises(Unsupported, match="leave out --double-quant"):
        _blockwise.compress(np.array([1, scale, scale, 2], np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_expanded_as_by_bitsandbytes(dtype: str) -> None:
    scales = np.random.default_rng(0).uniform(0.01, 0.1, 1000).astype(np.float32)
    codes, absmax, state, offset = library(scales)
    state.dtype = getattr(torch, dtype)
    theirs = bnb.dequantize_blockwise(torch.from_numpy(codes), state)
    theirs += torch.tensor(offset)  # as dequantize_4bit does it, in place
    values = _blockwise.dynamic_map()
    assert np.array_equal(
        _blockwise.expand(codes, values, absmax, offset, dtype), theirs.float().numpy()
    )


def test_torch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    codec = nf4.writer(double_quant=True, block_size=64)
    with pytest.raises(Unsupported, match=r"pip install 'adaptertools\[models\]'"):
        codec.side(np.ones(4, np.float32), "BF16", (4, 64))
    plain = nf4.writer(double_quant=False, block_size=64)
    assert plain.side(np.ones(4, np.float32), "BF16", (4, 64))


@given(
    offset=st.floats(allow_nan=False, allow_infinity=False),
    dtype=st.sampled_from(["BF16", "F16", "F32"]),
    rows=st.integers(1, 1 << 40),
)
def test_length_does_not_depend_on_the_data(offset: float, dtype: str, rows: int) -> None:
    codec = nf4.writer(double_quant=True, block_size=64)
    state = _state.State(
        kind="nf4", block_size=64, dtype=dtype, shape=(rows, 7), nested_dtype="float32",
        offset=offset,
    )  # fmt: skip
    raw = _state.encode(state)
    assert codec.parts("M.weight", (rows, 7), dtype)[-1].shape == (len(raw),)
    assert _state.decode(raw, "M.weight", "nf4") == state
    assert json.loads(raw)["nested_offset"] == _state.offset(raw) == offset
