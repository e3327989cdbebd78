"""The table of names against llama.cpp's own, and against transformers' as layouts/ has them."""

import pytest

from adaptertools.errors import Mismatch, Unsupported
from adaptertools.formats import _gguf_names as names
from adaptertools.layouts import _linear_models, known

TYPES = sorted({*names._CALLED, *(set(names.ARCHS) - {*names._CALLED.values(), "starcoder"})} | {
    "gemma3", "llama", "olmo2"})  # fmt: skip


@pytest.mark.parametrize("arch", names.ARCHS)
def test_tensors_are_called_as_the_gguf_package_calls_them(arch: str) -> None:
    official = pytest.importorskip("gguf", reason="the gguf package, which holds the names")
    number = {v: k for k, v in official.MODEL_ARCH_NAMES.items()}[arch]
    theirs = official.get_tensor_name_map(number, 3)
    table = names.arch(arch)
    for module, end in table.ends.items():
        assert theirs.get_name(module) == end
        assert names.place(table, module).name == f"{end}.weight"
    for leaf, part in table.parts.items():
        # The stack of all experts has the name of one, without its number.
        assert theirs.get_name(f"{table.layers}2.{leaf.replace('{}.', '')}") == f"blk.2.{part}"
        place = names.place(table, f"{table.layers}2.{leaf.format(5)}")
        assert place == names.Place(
            f"blk.2.{part}.weight", part, 2, 5 if "{}" in leaf else None
        )  # fmt: skip
        found, module = names.target(table, place.name)
        assert (found.part, found.block) == (part, 2)
        assert names.place(table, module.format(5)).name == place.name


def leaf(module: str) -> str:
    return module.partition(".1.")[2]


@pytest.mark.parametrize("kind", TYPES)
def test_linear_layers_of_transformers_have_a_place(kind: str) -> None:
    table = names.arch(names.arch_of(kind))
    lines = _linear_models._table()[kind]
    prefix = known.prefix({"model_type": kind})
    inside = [f"{prefix}.{name}" for what in ("linear", "conv1d")
              for name in _linear_models._names(lines, what)]  # fmt: skip
    layers = [n for n in inside if n.startswith(table.layers)]
    assert layers or kind == "gemma3", inside
    for name in layers:
        module = name.removesuffix(".weight").replace(".N.", ".1.")
        dense = kind in ("qwen2_moe", "qwen3_moe") and leaf(module) in names._GATED
        if ".experts" not in module and "crossattention" not in module and not dense:
            assert names.place(table, module).block == 1


@pytest.mark.parametrize("kind", sorted(set(TYPES) - {"gemma3", "internlm3"}))
def test_ties_where_the_config_is_silent(kind: str) -> None:
    classes = _linear_models._table()[kind]["classes"]
    name = next(c for c in classes if c.endswith(("ForCausalLM", "LMHeadModel")))
    table = names.arch(names.arch_of(kind))
    assert table.ties == bool(known.ties({"model_type": kind}, name))


def test_bare_models_and_nested_ones() -> None:
    table = names.arch("gemma3")
    for target in ("layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj",
                   "model.language_model.layers.1.mlp.up_proj",
                   "language_model.model.layers.1.mlp.up_proj"):  # fmt: skip
        assert names.place(table, target).name == "blk.1.ffn_up.weight"


@pytest.mark.parametrize(
    "target",
    ["model.layers.01.mlp.up_proj", "model.layers.x.mlp.up_proj", "model.layers.1.mlp.gate_up_proj",
     "model.vision_tower.encoder.layers.1.self_attn.q_proj", "model.layers.1", "model.norm", "",
     "score"],
)  # fmt: skip
def test_other_modules_have_no_place(target: str) -> None:
    with pytest.raises(Mismatch, match=r"no weight of this module"):
        names.place(names.arch("qwen2"), target)


@pytest.mark.parametrize(
    "kind", ["falcon", "gpt_neox", "bloom", "qwen3_next", "starcoder", "", "x\n"]
)
def test_reordered_architectures_are_refused_by_name(kind: str) -> None:
    with pytest.raises(Unsupported, match=r"model_type (falcon|gpt_neox|\w*\\n|\w+)"):
        names.arch_of(kind)
