"""The order of a model's modules: that of the model itself, in every spelling of the prefix."""

import sys

import pytest
import torch
from torch import nn

from adaptertools.errors import Unsupported
from adaptertools.layouts import meta
from adaptertools.verbs._module_order import module_order
from tests.cases_models import bert, gpt2, headless_llama, llama, opt

BASES = {
    "llama": llama(),
    "gpt2": gpt2(),
    "opt": opt(),
    "bert": bert(),
    "headless": headless_llama(),
}


@pytest.mark.parametrize("name", BASES)
def test_order_is_the_models_own(name: str) -> None:
    model = BASES[name]()
    config = model.config.to_dict()
    order = module_order(config, type(model).__name__)
    own = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert [n for n in order if n in set(own)] == own
    prefix = f"{model.base_model_prefix}."
    bare = [n.removeprefix(prefix) for n in own]
    assert [n for n in order if n in set(bare)] == bare


def test_no_weights_are_made() -> None:
    config = llama()().config.to_dict() | {"hidden_size": 16384, "num_hidden_layers": 40}
    order = module_order(config | {"intermediate_size": 1 << 16}, "LlamaForCausalLM")
    assert "model.layers.39.mlp.down_proj" in order


@pytest.mark.parametrize("architecture", ["Custom", "", "AutoConfig", "pipeline", "Trainer"])
def test_unknown_models_are_refused(architecture: str) -> None:
    with pytest.raises(Unsupported, match=r"transformers makes no .*Merge it with PEFT"):
        module_order({"model_type": "custom"}, architecture)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    meta._made.cache_clear()
    with pytest.raises(Unsupported, match=r"pip install 'adaptertools\[models\]'"):
        module_order({"model_type": "llama"}, "LlamaForCausalLM")


def test_the_default_device_is_left_alone() -> None:
    module_order(llama()().config.to_dict(), "LlamaForCausalLM")
    assert torch.empty(1).device.type == "cpu"


def test_nothing_that_a_config_names_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention may be a kernel of the Hub, which transformers fetches and runs."""

    def fetched(*args: object, **more: object) -> None:
        raise AssertionError("a kernel was asked for")

    loader = "transformers.integrations.hub_kernels.load_and_register_attn_kernel"
    monkeypatch.setattr(loader, fetched)
    config = llama()().config.to_dict()
    plain = module_order(config, "LlamaForCausalLM")
    named = {"_attn_implementation": "evil/kernel", "auto_map": {"AutoModel": "evil.Model"}}
    assert module_order(config | named, "LlamaForCausalLM") == plain
