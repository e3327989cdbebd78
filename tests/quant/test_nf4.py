"""nf4 and fp4 weights in checkpoints that transformers has saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adaptertools import tensorfile
from adaptertools.errors import Unreadable
from adaptertools.packing import CODES, Packed
from adaptertools.quant import fp4, int8, nf4
from adaptertools.quant._fourbit import FourBit
from adaptertools.tensorfile import TensorSpec
from tests.quant.bnb_saved import MODULES, save, specs

kernels = pytest.importorskip("bitsandbytes.backends.default.ops", reason="it is the oracle")
bnb = pytest.importorskip("bitsandbytes.functional")

KINDS = {"nf4": nf4, "fp4": fp4}
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
CASES = [  # quant type, double quantisation, dtype, storage
    ("nf4", False, torch.bfloat16, "uint8"),
    ("nf4", True, torch.bfloat16, "uint8"),
    ("fp4", False, torch.float32, "bfloat16"),
    ("fp4", True, torch.float16, "float32"),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)), scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind, double, dtype, storage = request.param
    folder = tmp_path_factory.mktemp("saved")
    model, tensors = save(
        folder, dtype, load_in_4bit=True, bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double, bnb_4bit_quant_storage=storage,
    )  # fmt: skip
    return folder, model, tensors, request.param


def raw(spec: TensorSpec) -> bytes:
    with Path(spec.file).open("rb") as file:
        file.seek(spec.start)
        return file.read(spec.nbytes)


def decoded(packed: Packed) -> Any:
    side = {role: tensorfile.read(s) for role, s in packed.parts.items() if role != CODES}
    rows, columns = packed.shape
    codec = packed.codec
    bytes_ = np.frombuffer(raw(packed.parts[CODES]), np.uint8)
    spread = codec.spread(codec.scales(side, (rows, columns)), 0, rows, columns)
    return codec.decode(codec.unpack(bytes_, rows, columns), spread)


def library(weight: Any) -> Any:
    """What the loaded model's weight is worth, by the generic kernel; that for CPUs needs rows of
    whole blocks."""
    state = weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = bnb.dequantize_blockwise(absmax, state.state2) + state.offset
    decode = kernels._dequantize_4bit_compute  # without torch.compile, if it was applied
    decode = getattr(decode, "__wrapped__", decode)
    codes = weight.data.view(torch.uint8).reshape(-1)
    return decode(codes, absmax, state.code, state.blocksize, state.shape, torch.float32).numpy()


def test_every_weight_is_found_and_no_other(made: Any) -> None:
    _, model, tensors, (kind, double, dtype, _) = made
    found = KINDS[kind].packed({"quant_method": "bitsandbytes"}, tensors)
    assert found.keys() == MODULES
    for name, packed in found.items():
        assert packed.shape == tuple(model.get_parameter(name).quant_state.shape)
        assert packed.dtype == DTYPES[dtype]
        assert packed.codec == KINDS[kind].writer(double_quant=double, block_size=64)
        assert packed.logical().shape == packed.shape
    other = fp4 if kind == "nf4" else nf4
    assert other.packed({}, tensors) == {}
    assert int8.packed({}, tensors) == {}


def test_values_are_those_of_bitsandbytes(made: Any) -> None:
    _, model, tensors, (kind, *_) = made
    for name, packed in KINDS[kind].packed({}, tensors).items():
        theirs = library(model.get_parameter(name))
        assert np.array_equal(decoded(packed), theirs), name


@pytest.mark.parametrize("double", [False, True])
def test_what_a_forward_pass_on_a_cpu_leaves_behind(double: bool, tmp_path: Path) -> None:
    # What Linear4bit does on a CPU with AVX512-BF16: repacked at the first call, and back to save.
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes, state = bnb.quantize_4bit(
        weight, blocksize=64, compress_statistics=double, quant_type="nf4"
    )
    codes, state = bnb._convert_weight_packed_for_cpu(codes, state)
    codes, state = bnb._convert_weight_packed_for_cpu_inverse(codes, state)
    saved = {f"a.weight.{name}": part for name, part in state.as_dict(packed=True).items()}
    save_file(saved | {"a.weight": codes}, tmp_path / "model.safetensors")
    tensors = specs(tmp_path)
    if not double:
        with pytest.raises(Unreadable, match=r"BF16 \[2, 32\], rounded and transposed"):
            nf4.packed({}, tensors)
        return
    # Its scales went through bfloat16 and were quantised again: less exact, and still a file.
    packed = nf4.packed({}, tensors)["a.weight"]
    assert packed.codec == FourBit(
        kind="nf4", block_size=64, double_quant=True, nested_dtype="bfloat16"
    )
    state.dtype = torch.float32
    assert np.array_equal(decoded(packed), bnb.dequantize_4bit(codes, state).numpy())


def test_the_same_files_come_from_the_16_bit_base(made: Any) -> None:
    folder, _, tensors, (kind, double, dtype, storage) = made
    codec = KINDS[kind].writer(double_quant=double, block_size=64)
    for name, spec in specs(folder / "base").items():
        if name not in MODULES:
            continue
        tile = tensorfile.read(spec).astype(np.float32)
        scales = codec.fit(tile)
        bytes_ = dict(codec.side(scales, DTYPES[dtype], spec.shape))
        bytes_[CODES] = codec.pack(codec.nearest(tile, scales)).tobytes()
        parts = codec.parts(name, spec.shape, DTYPES[dtype])
        assert {part.name for part in parts} == {n for n in tensors if n.startswith(name)}
        for part in parts:
            theirs = tensors[part.name]
            assert bytes_[part.role].rstrip(b" ") == raw(theirs).rstrip(b" "), part.name
            if part.role != "state" and (part.role != CODES or storage == "uint8"):
                assert (theirs.dtype, theirs.shape) == (part.dtype, part.shape)
