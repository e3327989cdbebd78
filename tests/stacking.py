"""PEFT as the oracle of stacks: random adapters of tiny models, and what PEFT makes of several.

a = made(llama(), folder / "a", seed=1, target_modules=["q_proj"], r=4)
expected = together(llama(), [(a, 0.7), (b, -0.3)])     # both active in PEFT, in float64
ours = together(llama(), [(stacked, 1.0)])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from torch import nn

from tests.cases_models import Builder
from tests.cases_recipe import INPUTS, quiet

torch.set_num_threads(1)

Weighted = Sequence[tuple[Path, float]]


def made(base: Builder, folder: Path, seed: int = 0, **lora: Any) -> Path:
    """Save an adapter whose every tensor is random."""
    with quiet():
        model = get_peft_model(base(), LoraConfig(**{"r": 4, **lora}))
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            trained = "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name
            if trained or (parameter.requires_grad and name.endswith("bias")):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(noise * (0.3 if "lora_" in name else 0.1))
        model.peft_config["default"].base_model_name_or_path = "tiny/base"
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def loaded(base: Builder, adapters: Weighted) -> PeftModel:
    """Give PEFT's model in float64 with every adapter active, its update times its weight."""
    with quiet():
        (first, _), *rest = adapters
        model = PeftModel.from_pretrained(
            base().double(), str(first), "0", autocast_adapter_dtype=False
        )
        for at, (folder, _) in enumerate(rest, 1):
            model.load_adapter(str(folder), str(at), autocast_adapter_dtype=False)
        model = model.double().eval()
        model.base_model.set_adapter([str(at) for at in range(len(adapters))])
    for layer in layers(model).values():
        for at, (_, weight) in enumerate(adapters):
            if str(at) in layer.scaling:
                layer.scaling[str(at)] *= weight
    return model


def layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Give the adapted modules by name, those of a MultiheadAttention's inside included."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    return {name.removeprefix("base_model.model."): part for name, part in found.items()}


def together(base: Builder, adapters: Weighted) -> torch.Tensor:
    """Give the logits of PEFT's model with every adapter active."""
    model = loaded(base, adapters)
    with torch.no_grad():
        output = model(**{name: torch.tensor(values) for name, values in INPUTS.items()})
    return output.logits if "logits" in output else output.last_hidden_state


def deltas(base: Builder, adapters: Weighted) -> dict[str, torch.Tensor]:
    """Give PEFT's dense update of every module, summed over the adapters."""
    found = {}
    for name, layer in layers(loaded(base, adapters)).items():
        held = {*layer.lora_A, *layer.lora_embedding_A}
        parts = [layer.get_delta_weight(adapter) for adapter in sorted(held)]
        found[name] = torch.stack(parts).sum(0)
    return found


@dataclass(frozen=True)
class Loading:
    """How PEFT takes an adapter: what it misses, what it has no use for, what it adapts."""

    missing: list[str]
    unexpected: list[str]
    adapted: set[str]


def loading(base: Builder, folder: Path) -> Loading:
    """Load an adapter and look at what PEFT says."""
    with quiet():
        model = get_peft_model(base(), LoraConfig.from_pretrained(str(folder)), "stacked")
        said = set_peft_model_state_dict(model, load_peft_weights(str(folder)), "stacked")
    missing = [k for k in said.missing_keys if "stacked" in k or "modules_to_save" in k]
    adapted = {n for n, p in layers(model).items() if "stacked" in {*p.lora_A, *p.lora_embedding_A}}
    return Loading(missing, list(said.unexpected_keys), adapted)
