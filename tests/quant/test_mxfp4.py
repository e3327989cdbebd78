"""MXFP4 against transformers' own unpacking, byte by byte and in a model that it loads."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, Mxfp4Config
from transformers.integrations.mxfp4 import FP4_VALUES, convert_moe_packed_tensors

from adaptertools.errors import Unreadable
from adaptertools.quant import mxfp4
from adaptertools.tensorfile import read_header
from tests.cases_recipe import quiet
from tests.quant.test_fp8 import Tensors, decoded, described, same_bits, stored

CONFIG = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
X = "model.layers.0.mlp.experts.gate_up_proj"


def random_bytes(*shape: int, low: int = 0, high: int = 256, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator).to(torch.uint8)


def pair(*lead: int, low: int = 100, high: int = 140) -> Tensors:
    """Blocks and scales of a weight of shape (*lead[:-1], 32 · lead[-1])."""
    return {
        X + "_blocks": random_bytes(*lead, 16),
        X + "_scales": random_bytes(*lead, low=low, high=high),
    }


def theirs(tensors: Tensors, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What transformers makes of it, turned back to how it is stored."""
    blocks, scales = tensors[X + "_blocks"], tensors[X + "_scales"]
    return convert_moe_packed_tensors(blocks, scales, dtype=dtype).transpose(1, 2)


@pytest.mark.parametrize("lead", [(2, 5, 3), (1, 1, 1), (4, 7, 2)])
def test_random_bytes_as_transformers_unpacks_them(lead: tuple[int, ...], tmp_path: Path) -> None:
    tensors = pair(*lead)
    one = mxfp4.packed(CONFIG, stored(tmp_path, tensors))[X]
    assert one.shape == (*lead[:-1], 32 * lead[-1])
    for step in (1, 3, 64):
        same_bits(decoded(one, step), theirs(tensors))
        same_bits(decoded(one, step, columns=one.shape[-1]), theirs(tensors))
    assert torch.equal(decoded(one).bfloat16(), theirs(tensors, torch.bfloat16))
    described(one, X)


def test_every_byte_and_every_exponent_that_float32_can_hold(tmp_path: Path) -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    blocks = every.repeat(1, 253, 1).reshape(1, 253, 16, 16)
    scales = torch.arange(253, dtype=torch.uint8).reshape(1, 253, 1).repeat(1, 1, 16)
    tensors = {X + "_blocks": blocks, X + "_scales": scales}
    one = mxfp4.packed(CONFIG, stored(tmp_path, tensors))[X]
    ours = decoded(one)
    same_bits(ours, theirs(tensors))  # −0 and subnormals included
    assert ours.isfinite().all()
    assert torch.equal(ours, ours.bfloat16().float())


@pytest.mark.parametrize("exponent", [253, 254, 255])
def test_exponents_that_float32_cannot_hold(exponent: int, tmp_path: Path) -> None:
    tensors = pair(1, 2, 2)
    tensors[X + "_blocks"][...] = 0x77  # all six
    tensors[X + "_scales"][0, 1, 1] = exponent
    assert not theirs(tensors).isfinite().all()
    one = mxfp4.packed(CONFIG, stored(tmp_path, tensors))[X]
    with pytest.raises(Unreadable, match="1 of 4 MXFP4 scales are NaN, or so large"):
        decoded(one)


def test_table_is_every_float_once() -> None:
    table = mxfp4.Mxfp4().table
    assert table.values == tuple(sorted({float(v) for v in FP4_VALUES}))
    assert len(table.values) == 15
    assert not any(np.signbit(v) and v == 0 for v in table.values)
    assert [FP4_VALUES[code] for code in table.codes] == list(table.values)
    assert [table.values[rank] for rank in table.ranks] == FP4_VALUES
    assert 8 not in table.codes  # −0 is read, and never made


def test_a_codec_travels(tmp_path: Path) -> None:
    one = mxfp4.packed(CONFIG, stored(tmp_path, pair(1, 2, 2)))[X]
    assert pickle.loads(pickle.dumps(one)) == one
    assert (one.codec.kind, one.codec.bits, one.codec.step(64)) == ("mxfp4", 4, 1)
    assert one.logical().dtype == "BF16"


def test_a_model_loads_with_our_values(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers loads mxfp4 with accelerate only")
    sizes: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "num_local_experts": 3,
    }  # fmt: skip
    with quiet():
        GptOssForCausalLM(GptOssConfig(**sizes, num_experts_per_tok=2)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors, names = load_file(file), []
    for name in [n for n in tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inner, outer = tensors.pop(name).shape  # the plain model has them transposed
        tensors[f"{name}_blocks"] = random_bytes(experts, outer, inner // 32, 16)
        tensors[f"{name}_scales"] = random_bytes(experts, outer, inner // 32, low=110, high=130)
        names.append(name)
    save_file(tensors, file, {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": CONFIG}))
    found = mxfp4.packed(CONFIG, read_header(file).tensors)
    assert sorted(found) == sorted(names)
    assert len(names) == 2
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
        )
    loaded = model.state_dict()
    for name, one in found.items():
        assert torch.equal(decoded(one).bfloat16(), loaded[name].transpose(1, 2))


def test_other_tensors_are_left_to_others(tmp_path: Path) -> None:
    more = {X + "_bias": torch.ones(2, 2), "logit_scales": torch.ones(2)}
    assert mxfp4.packed(CONFIG, stored(tmp_path, pair(1, 2, 2) | more)).keys() == {X}


BLOCKS, SCALES = random_bytes(2, 3, 4, 16), random_bytes(2, 3, 4)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({X + "_blocks": BLOCKS}, f"{X}_blocks are there, and _blocks and _scales were"),
        ({X + "_scales": SCALES}, f"{X}_scales are there, and _blocks and _scales were"),
        (
            {X + "_blocks": BLOCKS, X + "_scales": SCALES, X: torch.ones(1)},
            f"{X} and {X}_blocks and {X}_scales are there",
        ),
        ({X + "_blocks": BLOCKS, X + "_scales": SCALES[:1]}, "scales of U8 .1, 3, 4.; U8"),
        ({X + "_blocks": BLOCKS, X + "_scales": SCALES.float()}, "scales of F32"),
        ({X + "_blocks": BLOCKS.char(), X + "_scales": SCALES}, "blocks of I8"),
        ({X + "_blocks": BLOCKS[..., :8], X + "_scales": SCALES}, "blocks of U8 .2, 3, 4, 8."),
        ({X + "_blocks": BLOCKS[0, 0], X + "_scales": SCALES[0, 0]}, "blocks of U8 .4, 16."),
        ({X + "_blocks": BLOCKS[0, 0, 0, 0], X + "_scales": SCALES}, "blocks of U8 .. with"),
        ({"x": torch.ones(1)}, "says that the base is mxfp4, and none of its tensors"),
    ],
)
def test_what_does_not_fit_is_refused(tensors: Tensors, says: str, tmp_path: Path) -> None:
    clones = {name: tensor.clone() for name, tensor in tensors.items()}
    with pytest.raises(Unreadable, match=says):
        mxfp4.packed(CONFIG, stored(tmp_path, clones))
