"""Cases of PEFT's other methods: bases and module kinds, and adapters with random trained values.

The tables are in `cases_methods_*.py`, each with `METHODS`, a tuple of what `method` returns:

method("LOKR", linear={"r": 4}, conv2d={"r": 4}, **{"linear low": {"r": 1}})

A key is a kind of module (see `KINDS`) and perhaps a variant's name; its value are the arguments of
the method's config, `target_modules` included where the kind's own will not do.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from transformers import AutoModelForCausalLM

from tests.cases_models import Builder, convolutions, gpt2, llama, opt
from tests.cases_recipe import Case

SIZE = 0.2  # what is added to every trained number, times a normal one


@dataclass(frozen=True)
class Kind:
    """A kind of module: a base that has it, and what to target there."""

    base: Builder
    targets: tuple[str, ...]
    auto: Any = AutoModelForCausalLM


KINDS = {
    "linear": Kind(llama(), ("q_proj", "k_proj", "down_proj")),
    "biased": Kind(opt(), ("q_proj", "fc1", "fc2")),
    "conv1d": Kind(gpt2(), ("c_attn", "c_proj", "c_fc")),  # transformers' Conv1D
    "embedding": Kind(llama(), ("embed_tokens",)),
    "norm": Kind(opt(), ("self_attn_layer_norm", "final_layer_norm")),
    "conv2d": Kind(convolutions, ("point", "plane"), None),
    "line": Kind(convolutions, ("line",), None),  # torch's Conv1d
    "conv3d": Kind(convolutions, ("space",), None),
}


@dataclass(frozen=True)
class MethodCase(Case):
    """A case whose adapters name their `peft_type`; `values` may set trained ones otherwise."""

    kind: str = "linear"
    values: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor | None] | None = None
    peft_types: tuple[str, ...] = field(default=())

    def _save_adapter(self, folder: Path, path: Path, lora: dict[str, Any], seed: int) -> None:
        fields = copy.deepcopy(lora)
        config = PEFT_TYPE_TO_CONFIG_MAPPING[fields.pop("peft_type")](
            base_model_name_or_path=str(folder / "base"), **fields
        )
        torch.manual_seed(seed)
        model = get_peft_model(self.load_base(folder, torch.float32), config)
        self.disturb(model, seed)
        model.create_or_update_model_card = lambda output_dir: None  # a third of the time
        model.save_pretrained(path)
        if self.finish is not None:
            self.finish(path)

    def disturb(self, model: PeftModel, seed: int) -> None:
        """Move every trained value away from where it begins."""
        generator = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator)
                    given = self.values(name, parameter, noise) if self.values else None
                    parameter.copy_(parameter + SIZE * noise if given is None else given)


def method(
    peft_type: str,
    *,
    tolerance: float | None = None,
    values: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor | None] | None = None,
    finish: Callable[[Path], None] | None = None,
    **kinds: dict[str, Any],
) -> tuple[MethodCase, ...]:
    """Write the cases of one method down: kind of module (and variant) -> config."""
    return tuple(
        _case(peft_type, name, config, tolerance=tolerance, values=values, finish=finish)
        for name, config in kinds.items()
    )


def _case(peft_type: str, name: str, config: dict[str, Any], **fields: Any) -> MethodCase:
    kind = KINDS[name.split()[0]]
    task = "CAUSAL_LM" if kind.auto else None
    lora = {"target_modules": list(kind.targets), "task_type": task, **config}
    return MethodCase(
        f"{peft_type} {name}", kind.base, ({"peft_type": peft_type, **lora},), auto=kind.auto,
        kind=name.split()[0], peft_types=(peft_type,), **fields,
    )  # fmt: skip


def every() -> dict[str, MethodCase]:
    """Gather the cases of all tables."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("cases_methods_*.py"))
    groups = [group for name in names for group in import_module(f"tests.{name}").METHODS]
    return {case.name: case for group in groups for case in group}


def edited(path: Path, **changes: Any) -> None:
    """Change keys of a saved adapter's config."""
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}, sort_keys=True))


def adapted(model: nn.Module, kind: Kind) -> list[str]:
    """Name the modules that a kind targets."""
    return [n for n, _ in model.named_modules() if n.rpartition(".")[2] in kind.targets]
