"""int8 against bitsandbytes' Int8Params, byte for byte, and in a checkpoint of transformers."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptertools import tensorfile
from adaptertools.errors import Unsupported
from adaptertools.packing import CODES
from adaptertools.quant import fp4, int8, nf4
from tests.quant.bnb_saved import MODULES, save, specs

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is the oracle")

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
CODEC = int8.writer(double_quant=False, block_size=64)


def check(weight: torch.Tensor) -> None:
    theirs = bnb.nn.Int8Params(weight.clone(), has_fp16_weights=False, requires_grad=False)
    theirs = theirs.to("cpu")
    tile = weight.float().numpy()
    scales = CODEC.fit(tile)
    codes = CODEC.nearest(tile, scales)
    assert np.array_equal(scales, theirs.SCB.numpy())
    assert np.array_equal(codes.view(np.int8), theirs.data.numpy())
    rows, columns = weight.shape
    raw = CODEC.pack(codes)
    assert raw.tobytes() == theirs.data.numpy().tobytes()
    spread = CODEC.spread(scales, 0, rows, columns)
    ours = CODEC.decode(CODEC.unpack(raw, rows, columns), spread)
    expected = bnb.functional.int8_vectorwise_dequant(theirs.data, theirs.SCB).numpy()
    assert np.array_equal(ours, expected)
    for row in range(rows):  # and by tiles
        tile_scales = CODEC.fit(tile[row : row + 1])
        assert tile_scales == scales[row]
        assert np.array_equal(CODEC.nearest(tile[row : row + 1], tile_scales)[0], codes[row])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 64), (7, 333)], ids=str)
def test_bytes_are_those_of_bitsandbytes(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    ordinary = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for size in (0.02, 1.0, 1e-5, 1e-7, 1e-9, 1e4):  # float16 loses digits, then everything
        check((ordinary * size).to(dtype))
    sparse = ordinary.clamp(min=0.5) - 0.5
    sparse[0] = 0
    check(sparse.to(dtype))
    check(torch.full(shape, -0.3).to(dtype))


def test_halves_go_to_even_as_in_bitsandbytes() -> None:
    steps = torch.arange(-254, 255) / 2
    check(torch.stack([steps, steps / 8, steps * 4, steps.flip(0)]))


@settings(deadline=None)
@given(st.lists(st.floats(-65504, 65504, width=16), min_size=1, max_size=40))
def test_any_row(values: list[float]) -> None:
    check(torch.tensor([values]))


def test_every_code_is_worth_what_bitsandbytes_says() -> None:
    codes = np.arange(256, dtype=np.uint8)
    scales = np.random.default_rng(0).uniform(1e-3, 3, 50).astype(np.float32)
    ours = CODEC.decode(np.tile(codes, (50, 1)), CODEC.spread(scales, 0, 50, 256))
    numbers = torch.from_numpy(np.tile(codes.view(np.int8), (50, 1)))
    theirs = bnb.functional.int8_vectorwise_dequant(numbers, torch.from_numpy(scales))
    assert np.array_equal(ours, theirs.numpy())
    table = CODEC.table
    one = CODEC.decode(codes[None], np.ones((1, 1), np.float32))[0]
    assert [table.values[rank] for rank in table.ranks] == one.tolist()
    assert [table.ranks[code] for code in table.codes] == list(range(256))
    assert list(table.values) == sorted(table.values)
    assert np.array_equal(CODEC.spread(scales, 7, 3, 256), scales[7:10, None])


def test_what_float16_cannot_hold_is_refused() -> None:
    CODEC.fit(np.array([[65519, -1]], np.float32))  # rounds to 65504
    for value in (65520.0, -1e30, np.inf, np.nan):
        with pytest.raises(Unsupported, match=r"beyond its 65504\. Choose"):
            CODEC.fit(np.array([[1, 2], [value, 1]], np.float32))


def test_settings() -> None:
    assert pickle.loads(pickle.dumps(CODEC)) == CODEC == int8.Int8()
    assert (CODEC.kind, CODEC.bits, CODEC.step(333)) == ("int8", 8, 1)
    with pytest.raises(Unsupported, match="--double-quant"):
        int8.writer(double_quant=True, block_size=64)


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("saved")
    model, tensors = save(folder, request.param, load_in_8bit=True)
    return folder, model, tensors, request.param


def test_weights_of_a_checkpoint(made: Any) -> None:
    _, model, tensors, dtype = made
    found = int8.packed({"quant_method": "bitsandbytes"}, tensors)
    assert found.keys() == MODULES
    for name, packed in found.items():
        weight = model.get_parameter(name)
        assert packed.shape == tuple(weight.shape)
        assert (
            packed.dtype
            == {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[
                str(dtype).removeprefix("torch.")
            ]
        )
        rows, columns = packed.shape
        codes = tensorfile.read(packed.parts[CODES]).view(np.uint8)
        side = {role: tensorfile.read(s) for role, s in packed.parts.items() if role != CODES}
        spread = packed.codec.spread(packed.codec.scales(side, packed.shape), 0, rows, columns)
        ours = packed.codec.decode(packed.codec.unpack(codes, rows, columns), spread)
        scb = weight.SCB if weight.SCB is not None else model.get_submodule(name[:-7]).state.SCB
        theirs = bnb.functional.int8_vectorwise_dequant(weight.data, scb)
        assert np.array_equal(ours, theirs.numpy())
    assert nf4.packed({}, tensors) == fp4.packed({}, tensors) == {}


def test_weight_format_may_be_absent(made: Any) -> None:
    tensors = {name: spec for name, spec in made[2].items() if not name.endswith("_format")}
    found = int8.packed({}, tensors)
    assert found.keys() == MODULES
    assert all(packed.parts.keys() == {CODES, "SCB"} for packed in found.values())


def test_the_same_files_come_from_the_16_bit_base(made: Any) -> None:
    folder, _, tensors, _ = made
    for name, spec in specs(folder / "base").items():
        if name not in MODULES:
            continue
        tile = tensorfile.read(spec).astype(np.float32)
        scales = CODEC.fit(tile)
        arrays = {
            role: np.frombuffer(raw, np.uint8)
            for role, raw in CODEC.side(scales, spec.dtype, spec.shape).items()
        }
        arrays[CODES] = CODEC.pack(CODEC.nearest(tile, scales))
        parts = CODEC.parts(name, spec.shape, spec.dtype)
        module = name.removesuffix("weight")
        assert {part.name for part in parts} == {n for n in tensors if n.startswith(module)}
        for part in parts:
            theirs = tensors[part.name]
            assert (theirs.dtype, theirs.shape) == (part.dtype, part.shape)
            stored = tensorfile.read(theirs).reshape(-1).view(np.uint8)
            assert np.array_equal(arrays[part.role], stored), part.name
