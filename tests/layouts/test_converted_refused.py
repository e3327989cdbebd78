"""What no layout can be given for, and packed weights that transformers turns."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import GptOssConfig, LlamaConfig, conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, WeightConverter, WeightRenaming
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from adaptertools.errors import Unsupported
from adaptertools.layouts import meta
from adaptertools.layouts.converted import Layout, layout
from adaptertools.layouts.pieces import Piece
from adaptertools.quant import mxfp4
from adaptertools.tensorfile import TensorSpec
from tests.families.configs import DECODER

from .rebuilt import rebuilt, specs

torch.set_num_threads(1)

LLAMA = {**LlamaConfig(**DECODER).to_dict(), "architectures": ["LlamaForCausalLM"]}
Q = "model.layers.0.self_attn.q_proj.weight"
O = "model.layers.0.self_attn.o_proj.weight"  # noqa: E741
STORED = {Q: torch.zeros(64, 40), O: torch.zeros(40, 64)}


class Doubled(ConversionOps):
    """An operation that does not move whole slices."""

    def convert(self, input_dict: dict[str, Any], target_patterns: Any, **_: Any) -> Any:
        return {target_patterns[0]: next(iter(input_dict.values()))[0] * 2}


def with_conversions(monkeypatch: pytest.MonkeyPatch, *conversions: Any) -> Layout:
    table = "get_model_conversion_mapping"
    monkeypatch.setattr(conversion_mapping, table, lambda model: list(conversions))
    stored = {Q.replace("q_proj", "wq"): STORED[Q], O: STORED[O]}
    found = layout(LLAMA, specs(stored))
    assert found is not None
    return found


def test_an_operation_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    converter = WeightConverter("self_attn.wq", "self_attn.q_proj", [Doubled()])
    found = with_conversions(monkeypatch, converter)
    assert found.find(O) == (Piece(tensor=O),)
    for name in (Q, Q.removeprefix("model.")):
        with pytest.raises(Unsupported, match=r"q_proj.* by Doubled, which .*save_original_format"):
            found.find(name)


def test_a_conversion_of_another_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["self_attn.q_proj", "self_attn.k_proj"]  # two halves, where the model has 64 and 32
    found = with_conversions(monkeypatch, WeightConverter("self_attn.wq", names, [Chunk(0)]))
    with pytest.raises(Unsupported, match=r"q_proj.* whose result is not of .*q_proj.*'s shape"):
        found.find(Q)


def test_a_conversion_that_cannot_be_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    converter = WeightConverter("self_attn.old", "self_attn.o_proj", [Doubled()])
    found = with_conversions(monkeypatch, WeightRenaming("wq", "q_proj"), converter)
    assert found.find(Q) == (Piece(tensor=Q.replace("q_proj", "wq")),)
    with pytest.raises(Unsupported, match=r"self_attn.old.* by Doubled"):
        found.find(O.replace("o_proj", "old"))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "custom", "architectures": ["LlamaForCausalLM"]},
        {"model_type": "llama", "architectures": ["CustomForCausalLM"]},
        {"model_type": "custom"},
    ],
    ids=str,
)
def test_models_that_transformers_does_not_know(config: dict[str, Any]) -> None:
    assert layout(config, specs(STORED)) is None


def test_without_a_class_it_is_the_base_model() -> None:
    config = {k: v for k, v in LLAMA.items() if k != "architectures"}
    found = layout(config, specs({n.removeprefix("model."): t for n, t in STORED.items()}))
    assert found is not None
    assert found.find(Q) == (Piece(tensor=Q.removeprefix("model.")),)


def test_a_model_that_cannot_be_made() -> None:
    with pytest.raises(Unsupported, match=r"makes no LlamaForCausalLM .*Update transformers"):
        layout(LLAMA | {"hidden_act": "unheard of"}, specs(STORED))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    meta._made.cache_clear()
    with pytest.raises(Unsupported, match=r"pip install 'adaptertools\[models\]'"):
        layout(LLAMA, specs(STORED))


def test_a_transformers_that_converts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    with pytest.raises(Unsupported, match=r"too old to say it.*--upgrade 'transformers>=5'"):
        layout(LLAMA, specs(STORED))


@pytest.mark.parametrize("logical", [True, False], ids=["logical", "as stored"])
def test_mxfp4_is_loaded_transposed(logical: bool) -> None:
    said = GptOssConfig(**DECODER | {"hidden_size": 64}, num_local_experts=3).to_dict()
    config = said | {"architectures": ["GptOssForCausalLM"],
                     "quantization_config": {"quant_method": "mxfp4"}}  # fmt: skip
    name = "model.layers.0.mlp.experts.gate_up_proj"
    raw = {f"{name}_blocks": (3, 112, 2, 16), f"{name}_scales": (3, 112, 2)}
    generator = torch.Generator().manual_seed(0)
    stored = {
        n: torch.randint(100, 140, shape, generator=generator).to(torch.uint8)
        for n, shape in raw.items()
    }
    tensors = {n: TensorSpec(n, "U8", tuple(t.shape), "", 0, 0) for n, t in stored.items()}
    one = mxfp4.packed({"quant_method": "mxfp4"}, tensors)[name]
    key = name if logical else f"{name}_blocks"
    if logical:
        tensors = {name: one.logical(), f"{name}_scales": tensors[f"{name}_scales"]}
    found = layout(config, tensors)
    assert found is not None
    assert found.find(name) == (Piece(tensor=key, turned=True),)
    assert found.is_transposed(name.rpartition(".")[0])
    loaded = convert_moe_packed_tensors(*stored.values(), dtype=torch.float32)
    assert found.shape(name) == tuple(loaded.shape) == (3, 64, 112)
    held = loaded.transpose(1, 2)
    assert tuple(held.shape) == one.shape
    assert torch.equal(rebuilt(found.find(name), {key: held}, found.shape(name)), loaded)
