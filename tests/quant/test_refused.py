"""Every packing that is not read is refused by its name; those that are read pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.quantization_config import QuantizationMethod

from adaptertools.errors import Unreadable, Unsupported
from adaptertools.quant import _refused, fp8, mxfp4
from tests.quant.test_fp8 import Tensors, codes, scales, scheme, stored

M = "model.layers.0.q_proj"
PLAIN = {
    "model.embed.weight": torch.ones(2, 2), "model.norm.weight": torch.ones(2).bfloat16(),
    "model.position_ids": torch.arange(3), "model.mask": torch.ones(2).bool(),
    "vision.logit_scale": torch.ones(1), "model.hc.scale": torch.ones(2),
    "model.W_q": torch.ones(2, 2), "model.layer_scales": torch.ones(2),
    "codec.indices": torch.arange(2), "codec.codebooks": torch.ones(2, 2),
}  # fmt: skip

# What people know each method of transformers 5.23 by.
TITLES = {
    "gptq": "GPTQ", "awq": "AWQ", "aqlm": "AQLM", "vptq": "VPTQ", "quanto": "Quanto",
    "eetq": "EETQ", "higgs": "HIGGS", "hqq": "HQQ", "fbgemm_fp8": "FBGEMM FP8",
    "torchao": "torchao", "gguf": "GGUF", "bitnet": "BitNet", "spqr": "SpQR",
    "quark": "AMD Quark", "fp_quant": "FP-Quant", "auto-round": "AutoRound", "nvfp4": "NVFP4",
    "metal": "Metal", "fouroversix": "Four Over Six", "sinq": "SINQ", "gemma": "Gemma",
}  # fmt: skip


@pytest.mark.parametrize("method", [*QuantizationMethod], ids=lambda m: m.value)
def test_every_method_of_transformers_is_read_or_refused(method: QuantizationMethod) -> None:
    config = {"quant_method": method.value, "bits": 4}
    if method.value in _refused.SUPPORTED:
        _refused.refuse(config, {})
        return
    says = f"The base is quantised with .*{TITLES[method.value]}.*bits 4.*--base.*again with "
    with pytest.raises(Unsupported, match=says):
        _refused.refuse(config, {})


def test_every_name_that_transformers_loads_is_known() -> None:
    names = {
        name.removesuffix("_4bit").removesuffix("_8bit")
        for name in AUTO_QUANTIZATION_CONFIG_MAPPING
    }
    assert names <= _refused.SUPPORTED | _refused.REFUSED.keys()


def test_nothing_is_both_read_and_refused() -> None:
    assert not _refused.SUPPORTED & _refused.REFUSED.keys()
    assert fp8.methods | mxfp4.methods | {"bitsandbytes"} == _refused.SUPPORTED


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, r"NVIDIA ModelOpt \(quant_algo FP8\)"),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, "checkpoint_format gptq_v2"),
        ({"quant_method": "awq", "version": "gemm"}, r"AWQ \(version gemm\)"),
        ({"quant_method": "quanto", "weights": "int4"}, r"Quanto \(weights int4\)"),
        ({"quant_method": "intel/auto-round"}, "AutoRound"),
        ({"quant_method": "exl3"}, "EXL3"),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "fp4 experts under fp8"),
        ({"quant_method": "madeup"}, "the quant_method madeup, which is not known. Read and"),
        ({"quant_method": ["gptq"]}, "which is not known"),
        ({"quant_method": "a\nb"}, r"quant_method a\\nb"),
        ({"bits": 4, "group_size": 64}, "the quant_method none"),
    ],
)  # fmt: skip
def test_configs(config: dict[str, Any], says: str) -> None:
    with pytest.raises(Unsupported, match=says) as caught:
        _refused.refuse(config, {})
    assert "--base" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["load_in_4bit", "load_in_8bit"])
def test_old_configs_of_bitsandbytes_have_no_method(flag: str, tmp_path: Path) -> None:
    tensors = {M + ".weight": torch.ones(4, 1, dtype=torch.uint8)}
    _refused.refuse({flag: True}, stored(tmp_path, tensors))
    assert _refused.method_of({flag: True}) == "bitsandbytes"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "pack-quantized"}, "packed integers, as W4A16"),
        ({"format": "int-quantized"}, "integers, as W8A8"),
        ({"format": "nvfp4-pack-quantized"}, "NVFP4"),
        ({"format": "mxfp4-pack-quantized"}, "MXFP4 in the layout of compressed-tensors"),
        ({"format": "mxfp6-pack-quantized"}, "MXFP6"),
        ({"format": "marlin-24"}, "2:4 sparse integers for Marlin"),
        ({"format": "dense"}, "the format dense"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "2:4 sparse weights behind"),
        ({"transform_config": {"config_groups": {"u": {}}}}, "rotated weights"),
        (scheme(type="int"), "weights of 8-bit int"),
        (scheme(num_bits=4, group_size=16), "weights of 4-bit float"),
        (scheme(symmetric=False), "asymmetric float8"),
        (scheme(strategy="tensor_group"), "scales by tensor_group"),
        ({"config_groups": {"g": {"weights": "FP8"}}}, "weights of FP8"),
    ],
)
def test_schemes_of_compressed_tensors(change: dict[str, Any], says: str) -> None:
    with pytest.raises(Unsupported, match=f"compressed-tensors, {says}.*llm-compressor"):
        _refused.refuse(scheme() | change, {})


def test_one_group_of_several_is_enough() -> None:
    config = scheme()
    packed = {"weights": {"num_bits": 8, "type": "float"}, "format": "nvfp4-pack-quantized"}
    config["config_groups"]["group_1"] = packed
    with pytest.raises(Unsupported, match="NVFP4"):
        _refused.refuse(config | {"format": "mixed-precision"}, {})


@pytest.mark.parametrize("groups", [["Linear"], {"FP8": ["Linear"]}, "FP8"])
def test_groups_that_are_none(groups: object) -> None:
    with pytest.raises(Unreadable, match="a map of names to schemes was expected"):
        _refused.refuse(scheme() | {"config_groups": groups}, {})


I8, I32, U32 = torch.int8, torch.int32, torch.uint32


def byte(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


# Tensors as each tool stores them, and the name in the sentence.
SIGNS: dict[str, tuple[Tensors, str]] = {
    "gptq": ({".qweight": byte(2, 2), ".qzeros": byte(1, 1), ".g_idx": byte(2)}, "GPTQ"),
    "awq": ({".qweight": byte(2, 2), ".qzeros": byte(1, 1)}, "AWQ or GPTQ"),
    "fp_quant": ({".qweight": byte(2, 2), ".scales": byte(2, 1)}, "GPTQ, AWQ or FP-Quant"),
    "int4": ({".weight_packed": byte(2, 2), ".weight_scale": scales(2, 1)}, "packed integers"),
    "nvfp4": (
        {
            ".weight_global_scale": scales(1), ".weight_scale": codes(2, 1),
            ".weight_packed": byte(2, 2),
        },
        "NVFP4 of compressed-tensors",
    ),
    "modelopt": (
        {".weight": byte(2, 2), ".weight_scale": codes(2, 1), ".weight_scale_2": scales(1)},
        "NVFP4 of ModelOpt",
    ),
    "nf4": (
        {
            ".weight": byte(2, 1), ".weight.absmax": scales(1),
            ".weight.quant_state.bitsandbytes__nf4": byte(3),
        },
        "bitsandbytes nf4",
    ),
    "fp4": (
        {".weight": scales(2, 1), ".weight.quant_state.bitsandbytes__fp4": byte(3)},
        "bitsandbytes fp4",
    ),
    "int8": ({".weight": byte(2, 2, dtype=I8), ".SCB": scales(2)}, "bitsandbytes int8"),
    "hqq": ({".W_q": byte(2, 2), ".meta": byte(2)}, "HQQ or SINQ"),
    "quanto": ({".weight._data": byte(2, 2), ".weight._scale": scales(2, 1)}, "Quanto"),
    "torchao": ({"._weight_qdata": byte(2, 2, dtype=I8)}, "torchao"),
    "exl3": ({".trellis": byte(2, 2, dtype=torch.int16), ".suh": scales(2)}, "EXL3"),
    "exl2": ({".q_weight": byte(2, 2, dtype=I32), ".q_scale": byte(2)}, "EXL2"),
    "aqlm": ({".codes": byte(2, 2), ".codebooks": scales(2, 2)}, "AQLM"),
    "vptq": ({".indices": byte(2, 2), ".centroids.weight": scales(2, 2)}, "VPTQ"),
    "eetq": ({".weight": byte(2, 2, dtype=I8), ".weight_scales": scales(2)}, "EETQ"),
    "higgs": ({".weight": byte(2, 2), ".tables": scales(2), ".tables2": scales(2)}, "HIGGS"),
    "metal": ({".weight": byte(2, 2, dtype=U32), ".qbiases": scales(2)}, "Metal"),
    "mlx": ({".weight": byte(2, 2, dtype=U32), ".scales": scales(2)}, "MLX"),
    "deepseek": ({".weight": byte(2, 2, dtype=I8), ".scale": scales(2, 1)}, "DeepSeek-V4's FP4"),
    "mxfp4": ({"_blocks": byte(2, 2, 16), "_scales": byte(2, 2)}, "MXFP4"),
    "openai": ({".blocks": byte(2, 2, 16), ".scales": byte(2, 2)}, "MXFP4 in OpenAI's own layout"),
    "fp8": ({".weight": codes(2, 2), ".weight_scale_inv": scales(1, 1)}, "FP8 with scales"),
    "fp8_row": ({".weight": codes(2, 2), ".weight_scale": scales(2, 1)}, "FP8 with scales"),
    "float8": ({".weight": codes(2, 2)}, "float8"),
    "bitnet": ({".weight": byte(2, 2), ".weight_scale": scales(1)}, "INT8 with scales, or BitNet"),
    "bytes": ({".weight": byte(2, 2)}, "packed bytes"),
    "words": ({".weight": byte(2, 2, dtype=I32)}, "packed integers"),
    "fnuz": ({".weight": byte(2, 2).view(torch.float8_e4m3fnuz)}, "AMD's own float8"),
}  # fmt: skip


def named(kind: str) -> Tensors:
    return {M + ending: tensor for ending, tensor in SIGNS[kind][0].items()}


# A dtype alone is no sign where no config speaks of packing.
BARE = ("float8", "bytes", "words", "fnuz")


@pytest.mark.parametrize("kind", [kind for kind in SIGNS if kind not in BARE])
def test_packed_tensors_without_a_config(kind: str, tmp_path: Path) -> None:
    tensors = stored(tmp_path, PLAIN | named(kind))
    says = f"^{M}.* looks like .*{SIGNS[kind][1]}.*, but config.json has no quantization_config"
    with pytest.raises(Unsupported, match=says):
        _refused.refuse({}, tensors)
    with pytest.raises(Unsupported, match="but quantization_config has no quant_method"):
        _refused.refuse({"group_size": 64, "bits": 4}, tensors)  # as mlx-lm writes it


HOMES = {
    "bitsandbytes": {"nf4", "fp4", "int8", "bytes"},
    "mxfp4": {"mxfp4"},
    "fp8": {"fp8", "fp8_row", "float8"},
    "mxfp8": {"fp8", "fp8_row", "float8"},
    "compressed-tensors": {"fp8", "fp8_row", "float8"},
}


@pytest.mark.parametrize("method", HOMES)
@pytest.mark.parametrize("kind", SIGNS)
def test_packed_tensors_under_another_config(method: str, kind: str, tmp_path: Path) -> None:
    tensors = stored(tmp_path, PLAIN | named(kind))
    config = {"quant_method": method}
    if kind in HOMES[method]:
        _refused.refuse(config, tensors)
        return
    with pytest.raises(Unsupported, match=f"looks like .*, but quantization_config says {method}"):
        _refused.refuse(config, tensors)


def test_a_plain_base_passes(tmp_path: Path) -> None:
    _refused.refuse({}, stored(tmp_path, PLAIN))


@pytest.mark.parametrize("config", [scheme(), scheme(strategy="block", block_structure=[128, 128])])
def test_float8_of_compressed_tensors_passes(config: dict[str, Any], tmp_path: Path) -> None:
    tensors = (
        PLAIN | named("fp8_row") | {"lm_head.k_scale": scales(1), M + ".input_scale": scales(1)}
    )
    _refused.refuse(config, stored(tmp_path, tensors))
