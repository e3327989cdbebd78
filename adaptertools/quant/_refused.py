"""Packings that are recognised and refused by name, with what to do instead.

Names are those of transformers 5.23 (utils/quantization_config.py, quantizers/auto.py), vLLM
(model_executor/layers/quantization) and SGLang; formats and strategies of compressed-tensors 0.20.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from adaptertools.errors import Unreadable, Unsupported, shown
from adaptertools.tensorfile import FLOATS, TensorSpec

SUPPORTED = frozenset({"bitsandbytes", "compressed-tensors", "fp8", "mxfp4", "mxfp8"})

# quant_method -> the name people know it by, and what makes it.
REFUSED: Mapping[str, tuple[str, str]] = {
    "aqlm": ("AQLM", "aqlm"),
    "auto-round": ("AutoRound", "auto-round"),
    "autoround": ("AutoRound", "auto-round"),
    "awq": ("AWQ", "llm-compressor"),
    "bitblas": ("BitBLAS", "bitblas"),
    "bitnet": ("BitNet", "the training that made it: its weights are ternary by design"),
    "eetq": ("EETQ", "transformers' EetqConfig"),
    "exl2": ("EXL2", "exllamav2"),
    "exl3": ("EXL3", "exllamav3"),
    "fbgemm_fp8": ("FBGEMM FP8", "transformers' FbgemmFp8Config"),
    "fouroversix": ("Four Over Six", "fouroversix"),
    "fp_quant": ("FP-Quant", "fp_quant"),
    "gemma": ("Gemma's own quantisation", "the training that made it"),
    "gguf": ("GGUF", "llama.cpp's llama-quantize"),
    "gptq": ("GPTQ", "gptqmodel"),
    "higgs": ("HIGGS", "transformers' HiggsConfig"),
    "hqq": ("HQQ", "hqq"),
    "inc": ("Intel Neural Compressor", "auto-round"),
    "intel/auto-round": ("AutoRound", "auto-round"),
    "marlin": ("Marlin", "gptqmodel"),
    "metal": ("Metal affine quantisation", "transformers' MetalConfig"),
    "modelopt": ("NVIDIA ModelOpt", "ModelOpt"),
    "modelopt_fp4": ("ModelOpt NVFP4", "ModelOpt"),
    "modelopt_fp8": ("ModelOpt FP8", "ModelOpt"),
    "nvfp4": ("NVFP4", "llm-compressor or ModelOpt"),
    "petit_nvfp4": ("NVFP4", "llm-compressor or ModelOpt"),
    "qoq": ("QoQ", "its own repository, QServe"),
    "qqq": ("QQQ", "gptqmodel"),
    "quanto": ("Quanto", "optimum-quanto"),
    "quark": ("AMD Quark", "amd-quark"),
    "sinq": ("SINQ", "sinq"),
    "spqr": ("SpQR", "its own repository, SpQR"),
    "torchao": ("torchao", "torchao"),
    "vptq": ("VPTQ", "vptq"),
    "w4afp8": ("W4A-FP8 of SGLang", "ModelOpt"),
    "w8a8_fp8": ("W8A8 FP8 of SGLang", "llm-compressor"),
    "w8a8_int8": ("W8A8 INT8 of SGLang", "llm-compressor"),
}

# What a config may say of the variant; put behind the name.
_DETAILS = (
    "bits", "nbits", "w_bit", "num_bits", "group_size", "checkpoint_format", "version",
    "packing_format", "quant_algo", "forward_dtype", "weights", "method",
)  # fmt: skip

_FORMATS: Mapping[str, str] = {
    "pack-quantized": "packed integers, as W4A16",
    "int-quantized": "integers, as W8A8",
    "marlin-24": "2:4 sparse integers for Marlin",
    "sparse-bitmask": "sparse weights behind a bitmask",
    "sparse-24": "2:4 sparse weights",
    "sparse-24-bitmask": "2:4 sparse weights behind a bitmask",
    "nvfp4-pack-quantized": "NVFP4",
    "mxfp4-pack-quantized": "MXFP4 in the layout of compressed-tensors",
    "mxfp6-pack-quantized": "MXFP6",
}
_FLOAT8 = (None, "float-quantized", "naive-quantized", "mxfp8-quantized", "mixed-precision")
_STRATEGIES = (None, "tensor", "channel", "group", "block")


class _Sign(NamedTuple):
    """A tensor by which a packing is known, also where config.json is silent."""

    suffix: str
    looks: str
    methods: frozenset[str] = frozenset()  # where it is at home and not refused
    dtypes: tuple[str, ...] = ()  # any, where empty
    partner: str = ""  # what must stand in the place of `suffix` in another tensor's name


_BYTES = ("U8", "I8")
_WORDS = ("I16", "U16", "I32", "U32", "I64", "U64")
_BNB, _MX4 = frozenset({"bitsandbytes"}), frozenset({"mxfp4"})
_FP8 = frozenset({"fp8", "mxfp8", "compressed-tensors"})
_SIGNS = (  # the surer before the vaguer
    _Sign(".qweight", "GPTQ", partner=".g_idx"),
    _Sign(".qweight", "AWQ or GPTQ", partner=".qzeros"),
    _Sign(".qweight", "GPTQ, AWQ or FP-Quant"),
    _Sign(".dqweight", "FP-Quant"),
    _Sign(".weight_packed", "NVFP4 of compressed-tensors", partner=".weight_global_scale"),
    _Sign(".weight_packed", "compressed-tensors with packed integers"),
    _Sign(".weight_scale_2", "NVFP4 of ModelOpt"),
    _Sign(".quant_state.bitsandbytes__nf4", "bitsandbytes nf4", _BNB),
    _Sign(".quant_state.bitsandbytes__fp4", "bitsandbytes fp4", _BNB),
    _Sign(".SCB", "bitsandbytes int8", _BNB),
    _Sign(".W_q", "HQQ or SINQ", dtypes=(*_BYTES, *_WORDS)),
    _Sign("._data", "Quanto", partner="._scale"),
    _Sign("._weight_qdata", "torchao"),
    _Sign(".trellis", "EXL3"),
    _Sign(".q_weight", "EXL2", partner=".q_scale"),
    _Sign(".codes", "AQLM", partner=".codebooks"),
    _Sign(".indices", "VPTQ", partner=".centroids.weight"),
    _Sign(".weight_scales", "EETQ"),
    _Sign(".tables2", "HIGGS", partner=".tables"),
    _Sign(".weight", "Metal affine quantisation", dtypes=("U32",), partner=".qbiases"),
    _Sign(".weight", "MLX quantisation", dtypes=("U32",), partner=".scales"),
    _Sign(".weight", "DeepSeek-V4's FP4, two in a byte", dtypes=_BYTES, partner=".scale"),
    _Sign("_blocks", "MXFP4", _MX4, ("U8",), "_scales"),
    _Sign(".blocks", "MXFP4 in OpenAI's own layout", dtypes=("U8",), partner=".scales"),
    _Sign(".weight", "INT8 with scales, or BitNet", dtypes=_BYTES, partner=".weight_scale"),
    _Sign("_scale_inv", "FP8 with scales", _FP8),
    _Sign(".weight_scale", "FP8 with scales", _FP8),
    _Sign(".weight", "packed bytes", _BNB, _BYTES),
    _Sign(".weight", "packed integers", dtypes=_WORDS),
    _Sign("", "float8", _FP8, ("F8_E4M3", "F8_E5M2", "F8_E8M0")),
    _Sign("", "AMD's own float8", dtypes=("F8_E4M3FNUZ", "F8_E5M2FNUZ")),
    _Sign("", "floats of 4 or 6 bits", dtypes=("F4", "F6_E2M3", "F6_E3M2")),
)
_TELLING = tuple({sign.suffix for sign in _SIGNS} - {"", ".weight"})  # whatever the dtype


def refuse(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> None:
    """Raise Unsupported for a base whose packing is not read; pass over those that are.

    `config` is the quantization_config, empty where there is none; then any packed tensor is
    refused too, since nothing says how to write it back.
    """
    method = method_of(config)
    if method in REFUSED:
        name, maker = REFUSED[method]
        raise _unsupported(name + _variant(config), maker)
    if method == "compressed-tensors":
        groups(config)
    if config.get("expert_dtype", "fp8") != "fp8":
        kind = f"{shown(config['expert_dtype'])} experts under {shown(method)}"
        raise _unsupported(kind, "the recipe that it came from")
    if method in SUPPORTED or not method:
        _check_signs(method, config, tensors)
    if config and method not in SUPPORTED:
        raise Unsupported(
            f"quantization_config has the quant_method {shown(method or 'none')}, which is not "
            f"known. Read and written: {', '.join(sorted(SUPPORTED))}. Known and refused: "
            f"{', '.join(sorted(REFUSED))}. Pass the 16-bit model as --base."
        )


def groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the weights' settings of each group of a compressed-tensors config.

    Raises Unsupported where one is anything but 8-bit symmetric floats, stored plainly, and
    Unreadable where the groups are not what compressed-tensors writes.
    """
    schemes = config.get("config_groups") or {}
    if not isinstance(schemes, dict) or not all(isinstance(s, dict) for s in schemes.values()):
        raise Unreadable(
            f"quantization_config has config_groups of {shown(schemes)}, and a map of names to "
            "schemes was expected. Fetch config.json again."
        )
    if config.get("transform_config"):
        raise _compressed("rotated weights (transform_config)")
    sparsity = config.get("sparsity_config") or {}
    stored = sparsity.get("format") if isinstance(sparsity, dict) else sparsity
    if stored not in (None, "dense"):
        raise _compressed(_FORMATS.get(str(stored), shown(stored)))
    return [_scheme(scheme, config) for scheme in schemes.values() if scheme.get("weights")]


def _scheme(scheme: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    weights, stored = scheme["weights"], scheme.get("format") or config.get("format")
    if stored not in _FLOAT8:
        raise _compressed(_FORMATS.get(str(stored), f"the format {shown(stored)}"))
    if not isinstance(weights, dict):
        raise _compressed(f"weights of {shown(weights)}")
    kind, bits = weights.get("type", "int"), weights.get("num_bits", 8)
    if (kind, bits) != ("float", 8):
        raise _compressed(f"weights of {shown(bits)}-bit {shown(kind)}")
    if weights.get("symmetric") is False:
        raise _compressed("asymmetric float8 weights")
    if weights.get("strategy") not in _STRATEGIES:
        raise _compressed(f"scales by {shown(weights['strategy'])}")
    return weights


def method_of(config: Mapping[str, Any]) -> str:
    """Give the quant_method; empty where there is none."""
    # Configs older than quant_method are bitsandbytes'; transformers asks these two flags first.
    if config.get("load_in_4bit") or config.get("load_in_8bit"):
        return "bitsandbytes"
    return str(config.get("quant_method") or "")


def _variant(config: Mapping[str, Any]) -> str:
    said = [f"{key} {shown(config[key])}" for key in _DETAILS if config.get(key) is not None]
    return f" ({', '.join(said)})" if said else ""


def _check_signs(method: str, config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> None:
    found: dict[_Sign, str] = {}
    for name, spec in tensors.items():
        if spec.dtype not in FLOATS or name.endswith(_TELLING):
            sign = next((s for s in _SIGNS if _fits(s, name, spec, tensors)), None)
            # A dtype alone says little: a plain base may hold tensors that nobody adapts.
            bare = sign is not None and not sign.partner and sign.suffix in ("", ".weight")
            if sign is not None and method not in sign.methods and (config or not bare):
                found.setdefault(sign, name)
    sign = next((s for s in _SIGNS if s in found), None)
    if sign is None:
        return
    said = f"says {shown(method)}" if method else "has no quant_method"
    raise Unsupported(
        f"{shown(found[sign])} looks like {sign.looks}, but "
        f"{f'quantization_config {said}' if config else 'config.json has no quantization_config'}. "
        "Take config.json from where the weights come from, or pass the 16-bit model as --base."
    )


def _fits(sign: _Sign, name: str, spec: TensorSpec, tensors: Mapping[str, TensorSpec]) -> bool:
    return (
        name.endswith(sign.suffix)
        and (not sign.dtypes or spec.dtype in sign.dtypes)
        and (not sign.partner or name.removesuffix(sign.suffix) + sign.partner in tensors)
    )


def _unsupported(name: str, maker: str) -> Unsupported:
    return Unsupported(
        f"The base is quantised with {name}, which adaptertools does not merge into. Pass the "
        "16-bit model that it was made from as --base; --quant can write that in 4 or 8 bits, or "
        f"quantise the merged model again with {maker}."
    )


def _compressed(what: str) -> Unsupported:
    return _unsupported(f"compressed-tensors, {what}", "llm-compressor")
