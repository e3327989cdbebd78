"""Tiny models whose every weight follows from its name, and adapters of them by `adapters`.

`python -m tests.formats.adapterhub_models` writes tests/fixtures/adapterhub anew, where `adapters`
is installed: folders as it saves them, and what its models compute with them.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tests.cases_models import DECODER, ENCODER, TOKENS
from tests.cases_recipe import INPUTS

FIXTURES = Path(__file__).parent.parent / "fixtures" / "adapterhub"
GPT2 = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
BASES: Mapping[str, tuple[type, type, Mapping[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {**DECODER, "tie_word_embeddings": False}),
    "mistral": (MistralForCausalLM, MistralConfig,
                {**DECODER, "tie_word_embeddings": False, "sliding_window": None}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {**GPT2, "tie_word_embeddings": False}),
    "bert": (BertModel, BertConfig, ENCODER),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An adapter: its base, the name of adapters' config, and that config's fields."""

    base: str
    config: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    safe: bool = False


ALL = {"selfattn_lora": True, "intermediate_lora": True, "output_lora": True}
CASES = {
    "lora": Case("llama", "LoRAConfig", {**ALL, "r": 3, "alpha": 6, "leave_out": [0],
                                         "attn_matrices": ["q", "k", "v"]}),
    "lora-bert": Case("bert", "LoRAConfig", {**ALL, "r": 2, "alpha": 8}, safe=True),
    "lora-gpt2": Case("gpt2", "LoRAConfig", {**ALL, "r": 2, "alpha": 3}),
    "lora-gpt2-k": Case("gpt2", "LoRAConfig", {"r": 2, "alpha": 3, "attn_matrices": ["k"]}),
    "ia3": Case("llama", "IA3Config", {**ALL}, safe=True),
    "ia3-gpt2": Case("gpt2", "IA3Config", {"alpha": 2, "output_lora": True}),
    "dora": Case("llama", "DoRAConfig", {**ALL, "r": 4, "alpha": 4}),
    "dora-alpha": Case("llama", "DoRAConfig", {"r": 4, "alpha": 8}),
    "dora-bias": Case("bert", "DoRAConfig", {"r": 2, "alpha": 2}),
    "vera": Case("llama", "VeraConfig", {"r": 4, "alpha": 6, "attn_matrices": ["q"]}),
    "prefix": Case("llama", "PrefixTuningConfig", {"prefix_length": 3, "bottleneck_size": 8}),
    "prefix-flat": Case("mistral", "PrefixTuningConfig", {"prefix_length": 5, "flat": True}),
    "prefix-gpt2": Case("gpt2", "PrefixTuningConfig", {"prefix_length": 2, "flat": True}),
    "prompt": Case("bert", "PromptTuningConfig", {"prompt_length": 3}),
    "bottleneck": Case("bert", "SeqBnConfig", {"reduction_factor": 16}),
    "compacter": Case("bert", "CompacterConfig", {"reduction_factor": 8, "phm_dim": 2}),
    "gated": Case("bert", "LoRAConfig", {"r": 1, "use_gating": True}),
}  # fmt: skip


def base(name: str) -> nn.Module:
    """Make a base in float32; no generator's state and no order of modules decides about it."""
    kind, config, fields = BASES[name]
    # With torch's own attention, adapters 1.3.0 hides part of a prefix from the first tokens.
    eager = {"attn_implementation": "eager", "name_or_path": f"tiny/{name}"}
    return filled(kind(config(**fields, **eager))).eval()


def filled(model: nn.Module, only: str = "") -> nn.Module:
    """Give each parameter whose name has `only` in it values that follow from its name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(
                    parameter.shape
                )
                scale = 1 + 0.1 * noise if _about_one(name, parameter) else 0.2 * noise
                parameter.copy_(torch.from_numpy(scale))
    return model


def _about_one(name: str, parameter: nn.Parameter) -> bool:
    return ("norm" in name.lower() or "ln_" in name) and parameter.ndim == 1 and "bias" not in name


def outputs(model: Callable[..., Any]) -> torch.Tensor:
    """Give the first of a model's outputs at the last token."""
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor(INPUTS["input_ids"]))[0][:, -1]
    return found.double()


def adapted(case: Case) -> nn.Module:
    """Make the model with its adapter, active, by `adapters`."""
    import adapters

    model = base(case.base)
    adapters.init(model)
    model.add_adapter("tiny", config=getattr(adapters, case.config)(**case.fields))
    filled(model, "tiny")
    model.set_active_adapters("tiny")
    return model.eval()


def main() -> None:
    """Write the fixtures."""
    expected = {}
    for name, case in CASES.items():
        model = adapted(case)
        model.save_adapter(str(FIXTURES / name), "tiny", with_head=False, use_safetensors=case.safe)
        expected[name] = outputs(model).float().numpy()
    np.savez(FIXTURES / "outputs.npz", **expected)


if __name__ == "__main__":
    main()
