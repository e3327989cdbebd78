"""Experts' names are those that transformers' own table turns into each other."""

import pytest
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from adaptertools.formats._experts_names import ExpertNames, expert_names, families

SPLIT = {kind: names for kind, names in families().items() if names.splits}


def fused(kind: str, name: str) -> str:
    """Give the name that transformers loads a tensor under."""
    mapping = get_checkpoint_conversion_mapping(kind)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    return rename_source_key(name, renamings, converters)[0]


@pytest.mark.parametrize("kind", SPLIT)
def test_transformers_calls_them_so(kind: str) -> None:
    names = SPLIT[kind]
    module = f"model.layers.1.{names.above}.experts"
    for parameter, parts in names.parts.items():
        for part in parts:
            single = names.single(module, 3, part)
            assert fused(kind, f"{single}.weight") == f"{module}.{parameter}"
            assert names.taken(single) == (module, parameter, 3, part)
    if names.apart:
        router = f"model.layers.1.{names.apart}.gate"
        newer = names.renamed(router, fused=True)
        assert fused(kind, f"{router}.weight") == f"{newer}.weight"
        assert names.router(router)
        assert names.router(newer)
        assert names.renamed(names.renamed(router, fused=True), fused=False) == router


def test_other_names_are_left_alone() -> None:
    names = ExpertNames()
    for other in ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.experts", "gate_proj",
                  "model.layers.0.mlp.shared_expert.gate_proj", "x.mlp.experts.one.gate_proj",
                  "model.layers.0.moe.experts.1.gate_proj", "x.mlp.experts.1.w1"):  # fmt: skip
        assert names.taken(other) is None
        assert names.renamed(other, fused=True) == other
        assert not names.router(other)


def test_what_a_config_says() -> None:
    inner = {"model_type": "qwen3_5_moe_text", "num_experts": 4, "hidden_size": 8,
             "num_hidden_layers": 2}  # fmt: skip
    found = expert_names({"model_type": "qwen3_5_moe", "text_config": inner})
    assert found is not None
    assert found[1:] == (4, 8, 2)
    assert expert_names({"model_type": "llama", "num_experts": 4}) is None
    assert expert_names({"model_type": "mixtral", "num_local_experts": True})[1:] == (0, 0, 0)
