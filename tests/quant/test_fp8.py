"""Float8 weights against torch's float8 dtypes and transformers' dequantisation."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, _dequantize_fp8_weight

from adaptertools import tensorfile
from adaptertools.errors import AdapterToolsError, Unreadable, Unsupported
from adaptertools.packing import CODES, Packed
from adaptertools.quant import fp8
from adaptertools.tensorfile import TensorSpec, read_header
from tests.cases_recipe import quiet
from tests.tiny_llama import llama, save_base

E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu
FLOATS = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}
W = "model.layers.0.q_proj.weight"
S = W + "_scale_inv"
BLOCKS: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [4, 8]}
Tensors = dict[str, torch.Tensor]


def codes(*shape: int, dtype: torch.dtype = E4M3, seed: int = 0) -> torch.Tensor:
    """Random floats of 8 bits: every code but NaN and infinity."""
    bits = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    floats = bits.to(torch.uint8).view(dtype)
    return torch.where(floats.float().isfinite(), floats.float(), 0).to(dtype)


def scales(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    """Random positive scales; exponents where the dtype holds those."""
    generator = torch.Generator().manual_seed(seed)
    if dtype in (torch.uint8, E8M0):
        bits = torch.randint(110, 130, shape, generator=generator).to(torch.uint8)
        return bits if dtype == torch.uint8 else bits.view(E8M0)
    return (torch.rand(shape, generator=generator) * 0.01 + 1e-4).to(dtype)


def stored(folder: Path, tensors: Tensors) -> Mapping[str, TensorSpec]:
    """Save with the safetensors library and read the header."""
    save_file(tensors, folder / "model.safetensors")
    return read_header(folder / "model.safetensors").tensors


def decoded(packed: Packed, step: int = 3, columns: int | None = None) -> torch.Tensor:
    """Decode a whole weight by tiles of rows; the matrix may be cut to other columns."""
    codec, spec, logical = packed.codec, packed.parts[CODES], packed.logical()
    wide = columns or logical.columns
    shape = (logical.rows * logical.columns // wide, wide)
    raw = np.fromfile(spec.file, np.uint8, spec.nbytes, offset=spec.start)
    side = {role: tensorfile.read(s) for role, s in packed.parts.items() if role != CODES}
    scale, parts = codec.scales(side, shape), []
    for row in range(0, shape[0], step):
        rows = min(step, shape[0] - row)
        start, stop = (n * wide * codec.bits // 8 for n in (row, row + rows))
        tile = codec.unpack(raw[start:stop], rows, wide)
        assert tile.shape == (rows, wide)
        assert np.array_equal(codec.pack(tile), raw[start:stop])
        spread = codec.spread(scale, row, rows, wide)
        assert spread.dtype == np.float32
        np.broadcast_to(spread, tile.shape)
        parts.append(codec.decode(tile, spread))
    whole: NDArray[Any] = np.concatenate(parts)
    assert whole.dtype == np.float32
    return torch.from_numpy(whole).reshape(packed.shape)


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.dtype == theirs.dtype == torch.float32
    assert torch.equal(ours.view(torch.int32), theirs.contiguous().view(torch.int32))


def described(packed: Packed, name: str = W) -> None:
    """What the codec says of its parts is what was found."""
    parts = packed.codec.parts(name, packed.shape, packed.dtype)
    found = [(role, s.name, s.dtype, s.shape) for role, s in packed.parts.items()]
    assert [tuple(part) for part in parts] == found


@pytest.mark.parametrize("kind", FLOATS)
def test_every_code_is_the_float_that_torch_reads(kind: str, tmp_path: Path) -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(16, 16).view(FLOATS[kind])
    scale = scales(16, 1)
    one = fp8.packed(BLOCKS, stored(tmp_path, {W: every, S: scale}))[W]
    ours, theirs = decoded(one), every.float() * scale
    assert torch.equal(ours.isnan(), theirs.isnan())
    same_bits(ours.nan_to_num(nan=7.0), theirs.nan_to_num(nan=7.0))  # −0 and infinities included


@pytest.mark.parametrize("kind", FLOATS)
def test_table_is_every_finite_float_once(kind: str) -> None:
    floats = torch.arange(256, dtype=torch.uint8).view(FLOATS[kind]).float()
    finite = floats.isfinite()
    table = fp8.Fp8(kind, (1, 1), (1, 1), "_scale", "F32", 2).table
    assert table.values == tuple(sorted({float(f) for f in floats[finite]}))
    assert len(table.values) == {"F8_E4M3": 253, "F8_E5M2": 247}[kind]
    assert not any(np.signbit(value) and value == 0 for value in table.values)
    assert [floats[code].item() for code in table.codes] == list(table.values)
    for code in range(256):
        rank = table.ranks[code]
        if finite[code]:
            assert table.values[rank] == floats[code]
        else:
            assert rank == -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, E8M0, torch.uint8])
@pytest.mark.parametrize("shape", [(12, 16), (3, 8, 24)], ids=["matrix", "experts"])
def test_blocks_as_transformers_dequantises(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    grid = (*shape[:-2], shape[-2] // 4, shape[-1] // 8)
    weight, scale = codes(*shape), scales(*grid, dtype=dtype)
    one = fp8.packed(BLOCKS, stored(tmp_path, {W: weight, S: scale}))[W]
    dequantise = Fp8Dequantize(None)._dequantize_one
    theirs = dequantise(weight, scale, output_dtype=torch.float32)
    for step in (1, 5, 64):
        same_bits(decoded(one, step), theirs)
        same_bits(decoded(one, step, columns=shape[-1]), theirs)
    described(one)
    is_half = dtype in (torch.bfloat16, torch.float16)
    assert one.logical().dtype == ("F16" if dtype == torch.float16 else "BF16")
    if is_half or dtype in (torch.uint8, E8M0):  # where nothing says more, transformers agrees
        wanted = {"F16": torch.float16, "BF16": torch.bfloat16}[one.dtype]
        assert dequantise(weight, scale).dtype == wanted


@pytest.mark.parametrize("shape", [(13, 29), (4, 8), (3, 2), (1, 40), (40, 1), (3, 7, 20)])
def test_ragged_blocks_end_early(shape: tuple[int, ...], tmp_path: Path) -> None:
    grid = (*shape[:-2], -(-shape[-2] // 4), -(-shape[-1] // 8))
    weight, scale = codes(*shape), scales(*grid)
    one = fp8.packed(BLOCKS, stored(tmp_path, {W: weight, S: scale}))[W]
    theirs = _dequantize_fp8_weight(weight, scale, [4, 8], torch.float32)
    for step in (1, 3, 64):
        same_bits(decoded(one, step), theirs)
        same_bits(decoded(one, step, columns=shape[-1]), theirs)
    described(one)


@pytest.mark.parametrize("size", [(), (1,), (1, 1), (9, 1), (9,)], ids=str)
@pytest.mark.parametrize("ending", ["_scale_inv", "_scale", ".scale", ".qscale_weight"])
@pytest.mark.parametrize("blocks", [{}, {"weight_block_size": None}, {"weight_block_size": [4, 8]}])
def test_one_scale_per_tensor_or_row(
    size: tuple[int, ...], ending: str, blocks: dict[str, Any], tmp_path: Path
) -> None:
    name = (W.removesuffix(".weight") if ending.startswith(".") else W) + ending
    tensors = {W: codes(9, 20), name: scales(*size), "input_scale": scales(1)}
    one = fp8.packed({"quant_method": "fp8", **blocks}, stored(tmp_path, tensors))[W]
    scale = tensors[name].reshape(-1, 1)
    same_bits(decoded(one), tensors[W].float() * scale)
    assert one.parts[fp8.SCALE].name == name
    described(one)


def test_default_blocks_are_those_of_transformers(tmp_path: Path) -> None:
    assert tuple(FineGrainedFP8Config().weight_block_size) == (128, 128)
    tensors = {W: codes(130, 260), S: scales(2, 3)}
    one = fp8.packed({"quant_method": "fp8"}, stored(tmp_path, tensors))[W]
    same_bits(decoded(one), _dequantize_fp8_weight(*tensors.values(), [128, 128], torch.float32))


def test_mxfp8_has_exponents_for_32_elements(tmp_path: Path) -> None:
    tensors = {W: codes(6, 96), S: scales(6, 3, dtype=torch.uint8)}
    one = fp8.packed({"quant_method": "mxfp8"}, stored(tmp_path, tensors))[W]
    same_bits(decoded(one), Fp8Dequantize(None)._dequantize_one(tensors[W], tensors[S]).float())


def scheme(**weights: Any) -> dict[str, Any]:
    """A config of compressed-tensors with one group."""
    plain = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
    group = {"targets": ["Linear"], "weights": plain | weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"],
    }  # fmt: skip


# Settings of the weights, shape and dtype of the scale for a weight of 12 rows and 64 columns.
SCHEMES: dict[str, tuple[dict[str, Any], tuple[int, ...], torch.dtype]] = {
    "tensor": ({"strategy": "tensor"}, (1,), torch.float32),
    "channel": ({"strategy": "channel"}, (12, 1), torch.bfloat16),
    "half": ({"strategy": "channel", "group_size": None}, (12, 1), torch.float16),
    "block": ({"strategy": "block", "block_structure": [4, 16]}, (3, 4), torch.bfloat16),
    "group": ({"strategy": "group", "group_size": 32}, (12, 2), torch.float32),
    "mxfp8": ({"strategy": "group", "group_size": 32}, (12, 2), torch.uint8),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_of_compressed_tensors(name: str, tmp_path: Path) -> None:
    weights, size, dtype = SCHEMES[name]
    tensors = {W: codes(12, 64), W + "_scale": scales(*size, dtype=dtype)}
    more = {"model.layers.0.q_proj.input_scale": scales(1)}
    one = fp8.packed(scheme(**weights), stored(tmp_path, tensors | more))[W]
    scale = tensors[W + "_scale"]
    wide = scale.view(E8M0).float() if dtype == torch.uint8 else scale.float()
    rows, columns = (12 // size[0], 64 // size[1]) if len(size) == 2 else (12, 64)
    wide = wide.reshape(-1, size[1] if len(size) == 2 else 1)
    wide = wide.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    same_bits(decoded(one), tensors[W].float() * wide)
    described(one)


@pytest.mark.parametrize("name", SCHEMES)
def test_compressed_tensors_decompresses_to_the_same(name: str, tmp_path: Path) -> None:
    reason = "compressed-tensors is not installed"
    quantization = pytest.importorskip("compressed_tensors.quantization", reason=reason)
    compressors = pytest.importorskip("compressed_tensors.compressors", reason=reason)
    weights, size, dtype = SCHEMES[name]
    tensors = {W: codes(12, 64), W + "_scale": scales(*size, dtype=dtype)}
    settings = scheme(**weights)["config_groups"]["group_0"]
    if name == "mxfp8":
        settings["weights"]["scale_dtype"] = "torch.uint8"
    kind = {"mxfp8": "mxfp8-quantized"}.get(name, "float-quantized")
    compressor = compressors.BaseCompressor.get_value_from_registry(kind)
    local = {"weight": tensors[W], "weight_scale": tensors[W + "_scale"]}
    theirs = compressor.decompress(local, quantization.QuantizationScheme(**settings))["weight"]
    one = fp8.packed(scheme(**weights), stored(tmp_path, tensors))[W]
    assert torch.equal(decoded(one).to(theirs.dtype), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, E8M0], ids=["float", "ue8m0"])
def test_a_model_loads_with_our_values(dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers loads float8 with accelerate only")
    tensors, packed_names = llama(layers=1), []
    for seed, name in enumerate(n for n in list(tensors) if n.endswith("_proj.weight")):
        rows, columns = tensors[name].shape
        tensors[name] = codes(rows, columns, seed=seed)
        tensors[name + "_scale_inv"] = scales(rows // 16, columns // 8, dtype=dtype, seed=seed)
        packed_names.append(name)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 96}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    config = {"quant_method": "fp8", "weight_block_size": [16, 8], "activation_scheme": "dynamic"}
    config["scale_fmt"] = "float" if dtype == torch.float32 else "ue8m0"
    base = save_base(tmp_path / "base", tensors, **sizes, **heads, quantization_config=config)
    found = fp8.packed(config, read_header(base / "model.safetensors").tensors)
    assert sorted(found) == sorted(packed_names)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.bfloat16, quantization_config=FineGrainedFP8Config(dequantize=True)
        )
    loaded = model.state_dict()
    for name, one in found.items():
        assert loaded[name].dtype == torch.bfloat16
        assert torch.equal(decoded(one).bfloat16(), loaded[name])


@pytest.mark.parametrize("dtype", [torch.uint8, E8M0])
def test_every_exponent_that_float32_can_hold(dtype: torch.dtype, tmp_path: Path) -> None:
    exponents = torch.arange(247, dtype=torch.uint8).reshape(1, 247)  # 448 · 2^(247 − 127) is not
    weight = torch.full((1, 247), 448.0).to(E4M3)
    config = {"quant_method": "fp8", "weight_block_size": [1, 1]}
    one = fp8.packed(config, stored(tmp_path, {W: weight, S: exponents.view(dtype)}))[W]
    same_bits(decoded(one), weight.float() * exponents.view(E8M0).float())


@pytest.mark.parametrize(
    "scale",
    [
        torch.tensor([float("nan")]),
        torch.tensor([float("inf")]),
        torch.tensor([-1.0]),
        torch.tensor([1e36]),
        torch.tensor([255], dtype=torch.uint8),
        torch.tensor([247], dtype=torch.uint8),
        torch.tensor([255], dtype=torch.uint8).view(E8M0),
    ],
)
def test_scales_that_cannot_be(scale: torch.Tensor, tmp_path: Path) -> None:
    one = fp8.packed(BLOCKS, stored(tmp_path, {W: codes(4, 8), S: scale}))[W]
    with pytest.raises(Unreadable, match="1 of 1 scales are negative, NaN or so large"):
        decoded(one)


def test_a_zero_scale_is_a_block_of_zeros(tmp_path: Path) -> None:
    one = fp8.packed(BLOCKS, stored(tmp_path, {W: codes(4, 8), S: torch.zeros(1, 1)}))[W]
    assert not decoded(one).any()


def test_a_codec_travels(tmp_path: Path) -> None:
    one = fp8.packed(BLOCKS, stored(tmp_path, {W: codes(8, 8), S: scales(2, 1)}))[W]
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.codec.kind == "fp8"
    assert one.codec.step(8) == 1


def test_plain_tensors_are_left_to_others(tmp_path: Path) -> None:
    tensors = {
        W: codes(4, 8), S: scales(1, 1), "model.norm.weight": torch.ones(8),
        "model.q_l2_clip.scale": torch.ones(1), "model.layers.0.self_attn.k_scale": torch.ones(1),
        "model.layers.0.q_proj.activation_scale": torch.ones(1),
    }  # fmt: skip
    assert fp8.packed(BLOCKS, stored(tmp_path, tensors)).keys() == {W}


@pytest.mark.parametrize(
    ("tensors", "kind", "says"),
    [
        ({W: codes(4, 8)}, Unreadable, f"{W} is F8_E4M3 and has no scales"),
        ({W: codes(4, 8), S: scales(1), W + "_scale": scales(1)}, Unreadable, "has 2 scales"),
        ({S: scales(1, 1)}, Unreadable, "without a float8 weight .found no weight"),
        ({W: torch.ones(4, 8), S: scales(1, 1)}, Unreadable, f"found {W} F32"),
        ({W: codes(4, 8), S: scales(1).double()}, Unreadable, "a scale of F64; expected: F32"),
        ({W: codes(8, 8), S: scales(1, 2)}, Unreadable, "does not tell which scale"),
        ({W: codes(8, 8), S: scales(2, 1, 1)}, Unreadable, "does not tell which scale"),
        ({W: codes(8), S: scales(2)}, Unsupported, "read with two or three axes"),
        ({W: codes(0, 8), S: scales(1)}, Unsupported, "read with two or three axes"),
        ({W: codes(2, 2, 2, 2), S: scales(1)}, Unsupported, "read with two or three axes"),
        ({W: codes(3, 8, 8), S: scales(3)}, Unsupported, "does not tell which scale"),
        ({W: codes(3, 8, 8), S: scales(1)}, Unsupported, "does not tell which scale"),
        ({W: codes(3, 8, 8), S: scales(6, 1)}, Unsupported, "does not tell which scale"),
        ({"x": torch.ones(2)}, Unreadable, "packed by fp8, and none of its tensors is a float8"),
        ({"x.scale": scales(2, dtype=E8M0)}, Unreadable, "x.scale is a scale without"),
    ],
)
def test_what_does_not_fit_is_refused(
    tensors: Tensors, kind: type[AdapterToolsError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=says):
        fp8.packed(BLOCKS, stored(tmp_path, tensors))


def test_compressed_tensors_that_are_no_float8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="weights of 4-bit int"):
        fp8.packed(scheme(type="int", num_bits=4), {})
    with pytest.raises(Unreadable, match="none of its tensors is a float8"):
        fp8.packed(scheme(), {})
    assert fp8.packed(scheme() | {"config_groups": {}}, {}) == {}  # only its cache is quantised


@pytest.mark.parametrize("size", [128, [128], [0, 8], [True, 8], "4x8", [1.5, 8], {"a": 1}])
def test_block_sizes_that_are_none(size: object) -> None:
    with pytest.raises(Unreadable, match="two positive counts"):
        fp8.packed({"quant_method": "fp8", "weight_block_size": size}, {})
