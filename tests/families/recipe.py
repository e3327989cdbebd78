"""How a family's base and adapter are made, and what PEFT makes of them in float64.

Nothing here uses the package under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from tests.cases_models import randomised
from tests.cases_recipe import Tensors, quiet
from tests.kit import read

from .configs import Fields

RANK = 3
IDS = torch.tensor([[5, 11, 17, 40, 2, 83, 8, 64], [85, 3, 70, 21, 33, 7, 52, 60]])

# saved: what save_pretrained writes; converted: under the modules' own names, which transformers 5
# writes if asked; older: what published checkpoints hold and transformers only reads.
Layout = Literal["saved", "converted", "older"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family: a model class of transformers, its tiny config, and what LoRA adapts in it.

    layouts: those in which its checkpoints differ on disk.
    older: rewrites the tensors of a saved checkpoint into the older layout.
    experts: parameters (not modules) that are adapted, by the ends of their names.
    lora: further arguments of `LoraConfig`.
    takes: what the model is run on.
    """

    name: str
    model: str
    config: Fields
    layouts: tuple[Layout, ...] = ("saved",)
    older: Callable[[Tensors], Tensors] | None = None
    experts: tuple[str, ...] = ()
    lora: Fields = field(default_factory=dict)
    takes: tuple[str, ...] = ("input_ids",)

    @property
    def cls(self) -> Any:
        """The model class."""
        return getattr(transformers, self.model)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Random pixels and sounds, and the same tokens for encoder and decoder."""
        generator = torch.Generator().manual_seed(2)
        shapes = {"pixel_values": (2, 3, 8, 8), "input_features": (2, 20, 16)}
        return {
            name: torch.randn(shapes[name], generator=generator, dtype=torch.float64)
            if name in shapes
            else IDS
            for name in self.takes
        }


def save_base(family: Family, folder: Path, layout: Layout, dtype: torch.dtype) -> None:
    """Write a random checkpoint to `folder`."""
    with quiet():
        torch.manual_seed(0)  # for the buffers among what is saved
        model = randomised(family.cls(family.cls.config_class(**family.config))).to(dtype)
    save(family, model, folder, layout)


def save(family: Family, model: Any, folder: Path, layout: Layout) -> None:
    """Write a model in one of the family's layouts."""
    with quiet():
        model.save_pretrained(folder, save_original_format=layout != "converted")
    if layout == "older":
        assert family.older is not None
        tensors = {n: t.contiguous() for n, t in family.older(read(folder)).items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def save_adapter(
    family: Family, base: Path, folder: Path, config: PeftConfig | None = None
) -> None:
    """Let PEFT save a random adapter: LoRA on all linear layers and the experts, or another."""
    config = config or lora(family)
    config.base_model_name_or_path = str(base)
    with quiet():
        torch.manual_seed(0)  # methods may draw what they save
        model = get_peft_model(load(family, base, torch.float32), config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(_trained(name, parameter, noise))
        model.save_pretrained(folder)


def lora(family: Family, **changes: Any) -> LoraConfig:
    """Return the family's LoRA, with changes."""
    experts = {"target_parameters": list(family.experts)} if family.experts else {}
    shape = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear"}
    return LoraConfig(**{**shape, **experts, **family.lora, **changes})


def _trained(name: str, parameter: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    if any(factor in name for factor in ("magnitude", "ia3")):
        return parameter * (1 + 0.2 * noise)
    return noise * (0.3 if "lora_A" in name else 0.05 if "lora_B" in name else 0.1)


def load(family: Family, folder: Path, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """Load a checkpoint with the family's own class, without the kernels that know no float64."""
    plain = {"attn_implementation": "eager"}
    if family.experts:
        plain["experts_implementation"] = "eager"
    with quiet():
        return family.cls.from_pretrained(folder, dtype=dtype, **plain, **more)


def with_adapter(family: Family, base: Path, adapter: Path) -> PeftModel:
    """Load base and adapter in float64 with PEFT, nothing merged."""
    with quiet():
        return PeftModel.from_pretrained(load(family, base), adapter).double().eval()


def merged_by_peft(
    family: Family, base: Path, adapter: Path, folder: Path, layout: Layout
) -> Tensors:
    """Merge with PEFT in float64, save as the base was saved, and read what lies on disk."""
    model = with_adapter(family, base, adapter)
    with quiet():
        merged = model.merge_and_unload()
    save(family, merged, folder, layout)
    return read(folder)


def logits(family: Family, model: Any) -> torch.Tensor:
    """Run a model on the family's inputs."""
    with torch.no_grad(), quiet():
        output = model.eval()(**family.inputs())
    return output.logits if "logits" in output else output.logits_per_image
