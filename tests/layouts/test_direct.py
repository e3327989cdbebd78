"""The base's tensor for a name: as it is, or with the prefix on or off, and never another."""

import pytest

from adaptertools.layouts.direct import Names

LLAMA = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
         "model.layers.0.self_attn.q_proj.bias", "model.layers.10.self_attn.q_proj.weight",
         "model.norm.weight", "lm_head.weight")  # fmt: skip
BARE = tuple(name.removeprefix("model.") for name in LLAMA[:-1])
ATTENTION = ("mha.in_proj_weight", "mha.in_proj_bias", "mha.out_proj.weight", "mha.out_proj.bias",
             "head.out_proj.weight", "head.weight")  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "module", "weight"),
    [
        (LLAMA, "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj.weight"),
        (LLAMA, "layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj.weight"),
        (BARE, "model.layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj.weight"),
        (BARE, "layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj.weight"),
        (LLAMA, "lm_head", "lm_head.weight"),
        (LLAMA, "model.lm_head", "lm_head.weight"),
        (LLAMA, "q_proj", None),
        (LLAMA, "0.self_attn.q_proj", None),
        (LLAMA, "layers.1.self_attn.q_proj", None),
        (LLAMA, "model.model.norm", "model.norm.weight"),
        (LLAMA, "transformer.norm", None),
        (LLAMA, "", None),
    ],
)
def test_weight(tensors: tuple[str, ...], module: str, weight: str | None) -> None:
    assert Names(tensors, "model").weight(module) == weight


def test_the_name_itself_comes_first() -> None:
    both = ("x.weight", "model.x.weight", "model.model.x.weight")
    names = Names(both, "model")
    assert names.weight("x") == "x.weight"
    assert names.weight("model.x") == "model.x.weight"
    assert Names(both[1:], "model").weight("x") == "model.x.weight"
    assert Names(both[:1], "model").weight("model.x") == "x.weight"


def test_without_a_prefix_names_are_as_they_are() -> None:
    names = Names(LLAMA, "")
    assert names.weight("model.norm") == "model.norm.weight"
    assert names.weight("norm") is None


def test_a_prefix_is_a_whole_component() -> None:
    assert Names(("modelnorm.weight",), "model").weight("norm") is None
    assert Names(("norm.weight",), "model").weight("modelnorm") is None


def test_bias() -> None:
    names = Names(LLAMA, "model")
    assert names.bias("model.layers.0.self_attn.q_proj.weight") == LLAMA[2]
    assert names.bias("model.norm.weight") is None
    assert Names(ATTENTION, "").bias("mha.in_proj_weight") == "mha.in_proj_bias"


def test_fused_attention() -> None:
    names = Names(ATTENTION, "")
    assert names.weight("mha") == "mha.in_proj_weight"
    assert names.beside_attention("mha.in_proj_weight")
    assert names.beside_attention("mha.out_proj.weight")
    assert not names.beside_attention("head.out_proj.weight")
    assert not names.beside_attention("head.weight")


def test_nearest() -> None:
    names = Names(LLAMA, "model")
    near = names.nearest("base.layers.0.self_attn.q_proj.weight")
    assert near == "model.layers.0.self_attn.q_proj.weight"
    assert names.nearest("ZZZZ") == ""
    assert Names((), "model").nearest("x") == ""
