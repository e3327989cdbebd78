"""The 4-bit codecs against bitsandbytes' own kernels on the CPU, byte for byte."""

import pickle
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptertools.errors import Unsupported
from adaptertools.packing import CODES, Writer
from adaptertools.quant import _fourbit, _state, fp4, nf4

bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is the oracle")
kernels = pytest.importorskip("bitsandbytes.backends.default.ops", reason="of another version")

MODULES = {"nf4": nf4, "fp4": fp4}
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
SHAPES = [(1, 1), (3, 5), (7, 33), (64, 96), (10, 512), (9, 1000)]

kinds = pytest.mark.parametrize("kind", MODULES)
doubles = pytest.mark.parametrize("double", [False, True], ids=["plain", "double"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    # Small tensors only: several threads would wait for each other, and more so on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(prod(shape)))


def weights(dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Ordinary ones, many zeros and whole blocks of them, all equal, subnormal, huge."""
    tiny, huge = (1e-38, 1e35) if dtype != torch.float16 else (1e-6, 1e4)
    for shape in SHAPES:
        ordinary = normal(*shape)
        sparse = ordinary.clamp(min=0.5) - 0.5
        sparse.view(-1)[: sparse.numel() // 2] = 0
        same = torch.full(shape, -0.3)
        for values in (ordinary / 50, sparse, same, ordinary * tiny, ordinary * huge):
            yield values.to(dtype)


def stored(codec: Writer, weight: torch.Tensor, dtype: str) -> dict[str, tuple[Any, bytes]]:
    """Quantise as a merge does: role -> shape and bytes."""
    tile = weight.float().numpy()
    scales = codec.fit(tile)
    side = codec.side(scales, dtype, tuple(weight.shape))
    codes = codec.pack(codec.nearest(tile, scales)).tobytes()
    parts = codec.parts("M.weight", tuple(weight.shape), dtype)
    return {p.name: (p.shape, codes if p.role == CODES else side[p.role]) for p in parts}


def library(weight: torch.Tensor, kind: str, block: int, double: bool) -> tuple[Any, Any, Any]:
    """The same by bitsandbytes, as its modules save it; then the codes and the state."""
    codes, state = bnb.quantize_4bit(
        weight, blocksize=block, compress_statistics=double, quant_type=kind
    )
    saved = {f"M.weight.{name}": t for name, t in state.as_dict(packed=True).items()}
    saved = {"M.weight": codes} | saved
    return {n: (tuple(t.shape), t.numpy().tobytes()) for n, t in saved.items()}, codes, state


def generic(codes: Any, state: Any, kind: str, absmax: Any) -> Any:
    """Decode with the library's generic kernel; that for CPUs is wrong where rows end in blocks."""
    decode = kernels._dequantize_4bit_compute  # without torch.compile, if it was applied
    decode = getattr(decode, "__wrapped__", decode)
    values = decode(
        codes.reshape(-1), absmax, state.code, state.blocksize, state.shape, torch.float32
    )
    return values.numpy()


def absmax_of(state: Any) -> Any:
    if not state.nested:
        return state.absmax
    return (bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset).float()


@kinds
@doubles
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", _state.BLOCKS)
def test_bytes_are_those_of_bitsandbytes(kind: str, block: int, dtype: str, double: bool) -> None:
    codec = MODULES[kind].writer(double_quant=double, block_size=block)
    for weight in weights(DTYPES[dtype]):
        ours = stored(codec, weight, dtype)
        theirs, codes, state = library(weight, kind, block, double)
        assert ours.keys() == theirs.keys()
        for name, (shape, raw) in ours.items():
            if "quant_state" in name:
                assert raw.rstrip(b" ") == theirs[name][1]
                assert shape == (len(raw),)
                assert raw == theirs[name][1] or double
            else:
                assert (shape, raw) == theirs[name], (name, weight.shape)
        scales, decoded = decode(codec, ours, weight.shape)
        assert np.array_equal(scales, absmax_of(state).numpy())
        expected = generic(codes, state, kind, absmax_of(state))
        assert np.array_equal(decoded.view(np.int32), expected.view(np.int32))


def decode(codec: Writer, made: Mapping[str, tuple[Any, bytes]], shape: Any) -> tuple[Any, Any]:
    """Read what was stored, as a merge does: scales and values."""
    kinds = {"F32": np.float32, "U8": np.uint8}
    arrays = {
        p.role: np.frombuffer(made[p.name][1], kinds[p.dtype]).reshape(made[p.name][0])
        for p in codec.parts("M.weight", tuple(shape), "BF16")
    }
    codes = codec.unpack(arrays.pop(CODES).reshape(-1), *shape)
    scales = codec.scales(arrays, tuple(shape))
    return scales, codec.decode(codes, codec.spread(scales, 0, *shape))


@kinds
@doubles
@pytest.mark.parametrize("block", [32, 64, 1024])
def test_bitsandbytes_reads_what_is_written(kind: str, block: int, double: bool) -> None:
    codec = MODULES[kind].writer(double_quant=double, block_size=block)
    made = stored(codec, normal(24, 2048).bfloat16(), "F32")
    tensors = {
        name.removeprefix("M.weight."): torch.frombuffer(
            bytearray(raw), dtype=torch.float32 if "map" in name else torch.uint8
        )
        for name, (_, raw) in made.items()
    }
    for name in ("nested_absmax",) if double else ("absmax",):
        tensors[name] = tensors[name].view(torch.float32)
    codes = tensors.pop("M.weight").reshape(-1, 1)
    state = bnb.QuantState.from_dict(tensors, torch.device("cpu"))
    theirs = bnb.dequantize_4bit(codes, state)
    assert torch.equal(theirs, torch.from_numpy(decode(codec, made, (24, 2048))[1]))


@kinds
def test_halfway_goes_where_it_goes_in_bitsandbytes(kind: str) -> None:
    values = np.array(MODULES[kind].writer(double_quant=False, block_size=64).table.values, "f4")
    between = (values[1:] + values[:-1]) / np.float32(2)
    for size in np.array([1, 0.5, 3.7, 1e-3, 1e-38, 3e38], "f4"):
        near = [np.nextafter(between * size, np.float32(to)) for to in (-np.inf, np.inf)]
        some = np.concatenate([between * size, *near, values * size, [0, -0.0]]).astype("f4")
        weight = np.resize(np.append(some, size), (9, 77))
        check_codes(kind, weight)


@kinds
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_where_it_goes_in_bitsandbytes(kind: str, odd: float) -> None:
    weight = normal(3, 100).numpy()
    weight[0, 5] = weight[2, 99] = odd
    check_codes(kind, weight)


def check_codes(kind: str, weight: Any) -> None:
    codec = MODULES[kind].writer(double_quant=False, block_size=64)
    ours = codec.pack(codec.nearest(weight, codec.fit(weight)))
    theirs, _ = bnb.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type=kind)
    assert np.array_equal(ours, theirs.numpy().reshape(-1))


@kinds
@pytest.mark.parametrize("block", [32, 64, 4096])
@pytest.mark.parametrize("columns", [1, 7, 33, 96, 100, 512, 5000])
def test_tiles_give_what_the_whole_gives(kind: str, block: int, columns: int) -> None:
    codec = MODULES[kind].writer(double_quant=False, block_size=block)
    step = codec.step(columns)
    assert step * columns % block == 0
    assert not any(rows * columns % block == 0 for rows in range(1, step))
    weight = normal(2 * step + 1, columns).numpy()
    fit = codec.fit(weight)
    raw = codec.pack(codec.nearest(weight, fit))
    whole = codec.decode(codec.unpack(raw, *weight.shape), codec.spread(fit, 0, *weight.shape))
    scales, codes, values, at = [], [], [], 0
    for row in range(0, len(weight), step):
        tile = weight[row : row + step]
        scales.append(codec.fit(tile))
        codes.append(codec.pack(codec.nearest(tile, scales[-1])))
        part = raw[at : (at := at + len(codes[-1]))]
        spread = codec.spread(fit, row, len(tile), columns)
        values.append(codec.decode(codec.unpack(part, len(tile), columns), spread))
    assert np.array_equal(np.concatenate(scales), fit)
    assert np.array_equal(np.concatenate(codes), raw)
    assert np.array_equal(np.concatenate(values), whole)
    rows = codec.spread(fit, 1, 2, columns)  # also from the middle of a block
    assert np.array_equal(rows, codec.spread(fit, 0, *weight.shape)[1:3])


@kinds
@settings(deadline=None, max_examples=60)
@given(data=st.data(), rows=st.integers(1, 9), columns=st.integers(1, 90))
def test_values_on_the_grid_keep_their_codes(
    kind: str, data: st.DataObject, rows: int, columns: int
) -> None:
    codec = MODULES[kind].writer(double_quant=False, block_size=32)
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    codes = random.integers(0, 16, (rows, columns), np.uint8)
    if kind == "fp4":
        codes[codes == 8] = 0  # the other zero
    scales = np.exp(random.uniform(-60, 60, -(-rows * columns // 32))).astype(np.float32)
    values = codec.decode(codes, codec.spread(scales, 0, rows, columns))
    assert np.array_equal(codec.nearest(values, scales), codes)
    assert np.array_equal(codec.unpack(codec.pack(codes), rows, columns), codes)


@kinds
def test_table_is_the_map(kind: str) -> None:
    codec = pickle.loads(pickle.dumps(_fourbit.writer(kind, True, 128)))
    assert codec == _fourbit.writer(kind, True, 128)
    assert (codec.kind, codec.bits) == (kind, 4)
    theirs = bnb.get_4bit_type(kind, "cpu").tolist()
    assert [codec.table.values[rank] for rank in codec.table.ranks] == theirs
    assert [theirs[code] for code in codec.table.codes] == list(codec.table.values)
    assert list(codec.table.values) == sorted(set(theirs))


@kinds
@pytest.mark.parametrize("block", [0, 16, 48, 8192, -64])
def test_other_block_sizes_are_refused(kind: str, block: int) -> None:
    with pytest.raises(Unsupported, match=f"blocks of {block} weights.*--block-size"):
        MODULES[kind].writer(double_quant=False, block_size=block)
