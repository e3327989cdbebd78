"""What tensors are to an adapter, against the modules that transformers really builds."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptertools.layouts.roles import Role, roles
from adaptertools.tensorfile import TensorSpec
from tests.cases_models import bert, distilbert, gpt2, llama, opt, qwen2, roberta


def spec(name: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, "F32", shape, "", 0, 0)


@pytest.mark.parametrize(
    "build", [llama(), qwen2(), gpt2(), opt(), bert(), distilbert(), roberta()], ids=range(7)
)
def test_linear_modules_take_factors_and_all_else_is_whole(build: Callable[[], Any]) -> None:
    model = build()
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    tensors = {name: spec(name, tuple(p.shape)) for name, p in model.named_parameters()}
    found = roles(config, tensors)
    modules = dict(model.named_modules())
    for name, role in found.items():
        module = modules[role.module]
        head = role.module == "lm_head"
        linear = name.endswith(".weight") and isinstance(module, nn.Linear) and not head
        turned = name.endswith(".weight") and isinstance(module, Conv1D)
        assert role == Role(
            name=name, kind="linear" if linear else "conv1d" if turned else "whole"
        )  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
def test_prefixes_are_those_of_the_class(sign: int) -> None:
    """A body saved by itself lacks the prefix; norms and biases go where their matrices went."""
    shapes = {"h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_attn.bias": (12,),
              "h.0.ln_1.weight": (4,), "wte.weight": (9, 4)}  # fmt: skip
    before = "transformer." if sign < 0 else ""
    after = "" if sign < 0 else "transformer."
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2Model" if sign < 0 else "GPT2LMHeadModel"],
    }
    tensors = {before + n: spec(before + n, shape) for n, shape in shapes.items()}
    assert [role.name for role in roles(config, tensors).values()] == [after + n for n in shapes]


def test_what_is_not_known_is_not_guessed() -> None:
    tensors = {n: spec(n, (2, 2)) for n in (
        "model.a.q_proj.weight", "model.a.c_attn.weight", "model.a.rare.weight", "weight",
        "model.embed_tokens.weight", "score.weight",
    )}  # fmt: skip
    tensors["model.mlp.experts.up"] = spec("model.mlp.experts.up", (2, 3, 4))
    kinds = [
        r.kind for r in roles({"model_type": "mine", "architectures": ["Mine"]}, tensors).values()
    ]
    assert kinds == ["linear", "unsure", "whole", "whole", "whole", "whole", "expert"]


def test_experts_are_told_apart() -> None:
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    names = ("model.layers.0.block_sparse_moe.experts.3.w1.weight",
             "model.layers.0.self_attn.q_proj.weight")  # fmt: skip
    found = roles(config, {n: spec(n, (4, 4)) for n in names})
    assert [role.kind for role in found.values()] == ["expert", "linear"]
