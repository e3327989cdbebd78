"""One case: how to make a base and its adapters on disk, and how PEFT loads them in float64.

Nothing here uses the package under test.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from tests.cases_models import Builder

UPDATE = 0.2  # size of an update relative to its weight
INPUTS = {"input_ids": [[5, 11, 17, 40, 2, 93, 8, 64], [95, 3, 70, 21, 33, 7, 52, 90]]}

Tensors = dict[str, torch.Tensor]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers and PEFT say about tiny random models."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        transformers.logging.set_verbosity(before)


@dataclass(frozen=True)
class Case:
    """A base, one or more LoRA adapters on it, and how PEFT judges the merge.

    oracle: "merge" compares tensors with PEFT's merged ones; "forward" compares logits with those
        of PEFT's *unmerged* model, for the cases that PEFT merges wrongly.
    auto: the transformers class to train adapters on and load results with; None for plain torch.
    options: arguments for that class, such as the number of labels.
    scales: what each adapter's update is multiplied by; empty means 1.
    shard_size: largest file of the base.
    resize: vocabulary after `resize_token_embeddings`, or None.
    drift: changes base parameters once the adapter was added, as training them would.
    finish: edits a saved adapter folder.
    keys: endings that names in the adapter's file must have.
    tolerance: largest error relative to the tensor's largest value, instead of one ulp.
    load_dtype: type in which PEFT loads before all becomes float64; float32 where it insists.
    merge_options: further arguments of the merge under test.
    """

    name: str
    base: Builder
    loras: tuple[dict[str, Any], ...]
    auto: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    oracle: Literal["merge", "forward"] = "merge"
    scales: tuple[float, ...] = ()
    shard_size: str = "5GB"
    resize: int | None = None
    drift: Callable[[nn.Module], None] | None = None
    finish: Callable[[Path], None] | None = None
    keys: tuple[str, ...] = ("lora_A.weight", "lora_B.weight")
    tolerance: float | None = None
    load_dtype: torch.dtype = torch.float64
    merge_options: dict[str, Any] = field(default_factory=dict)

    def adapters(self, folder: Path) -> list[Path]:
        """Adapter folders, in the order of `loras`."""
        return [folder / ("adapter" if i == 0 else f"adapter-{i}") for i in range(len(self.loras))]

    def build(self, folder: Path, dtype: torch.dtype) -> None:
        """Write `base` and the adapters below `folder`; only the base is in `dtype`."""
        with quiet():
            self._save_base(folder / "base", dtype)
            for seed, path in enumerate(self.adapters(folder)):
                self._save_adapter(folder, path, self.loras[seed], seed)

    def build_base(self, folder: Path, dtype: torch.dtype) -> None:
        """Write `base` below `folder`, for adapters that come from elsewhere."""
        with quiet():
            self._save_base(folder / "base", dtype)

    def _save_base(self, path: Path, dtype: torch.dtype) -> None:
        model = self.base().to(dtype)
        if self.auto is not None:
            model.save_pretrained(path, max_shard_size=self.shard_size)
            return
        path.mkdir(parents=True)
        save_file(model.state_dict(), path / "model.safetensors", {"format": "pt"})
        config = {"model_type": "custom", "architectures": ["Custom"]}
        (path / "config.json").write_text(json.dumps(config))

    def _save_adapter(self, folder: Path, path: Path, lora: dict[str, Any], seed: int) -> None:
        model = self.load_base(folder, torch.float32)
        config = LoraConfig(base_model_name_or_path=str(folder / "base"), **copy.deepcopy(lora))
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config)
        randomise(peft_model, seed)
        if self.drift is not None:
            self.drift(peft_model)
        peft_model.save_pretrained(path)
        if self.finish is not None:
            self.finish(path)

    def load_base(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        """Load the base as PEFT users do, heads and resized embeddings included."""
        if self.auto is None:
            model = self.base().to(dtype)
            model.load_state_dict(load_file(folder / "base" / "model.safetensors"))
            return model
        torch.manual_seed(0)
        model = self.auto.from_pretrained(folder / "base", dtype=dtype, **self.options)
        if self.resize is not None:
            model.resize_token_embeddings(self.resize, mean_resizing=False)
        return model

    def load_peft(self, folder: Path) -> PeftModel:
        """Load base and adapters in float64, all adapters active and scaled, nothing merged."""
        with quiet():
            first, *rest = self.adapters(folder)
            model = PeftModel.from_pretrained(self.load_base(folder, self.load_dtype), first)
            for path in rest:
                model.load_adapter(path, adapter_name=path.name)
        names = ["default", *(path.name for path in rest)]
        model.base_model.set_adapter(names)
        for name, scale in zip(names, self.scales, strict=bool(self.scales)):
            for layer in lora_layers(model):
                layer.set_scale(name, scale)
        return model.double().eval()


def case(name: str, base: Builder, *loras: dict[str, Any], **fields: Any) -> Case:
    """Write a case down; `loras` are the arguments of `LoraConfig`, one dictionary per adapter."""
    return Case(name, base, loras, **fields)


def lora_layers(model: nn.Module) -> list[LoraLayer]:
    """Every module that PEFT adapted."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def randomise(model: PeftModel, seed: int) -> None:
    """Give every trained parameter random values; each update is about `UPDATE` of its weight."""
    generator = torch.Generator().manual_seed(100 + seed)

    def noise(parameter: torch.Tensor) -> torch.Tensor:
        return torch.randn(parameter.shape, generator=generator)

    sizes = factor_sizes(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in sizes:
                parameter.copy_(noise(parameter) * sizes[id(parameter)])
            elif not parameter.requires_grad:
                continue
            elif "lora_magnitude_vector" in name:
                parameter.mul_(1 + UPDATE * noise(parameter))
            elif "lora_diag" in name:
                parameter.copy_(1 + UPDATE * noise(parameter))
            else:
                parameter.copy_(0.1 * noise(parameter))


def factor_sizes(model: PeftModel) -> dict[int, float]:
    """Return the deviation that every factor should have, by the id of the parameter."""
    sizes = {}
    for layer in lora_layers(model):
        base = layer.get_base_layer()
        weight = base.in_proj_weight if hasattr(base, "in_proj_weight") else base.weight
        for name, scaling in layer.scaling.items():
            down = 0.3
            up = UPDATE * weight.std().item() / (down * scaling * layer.r[name] ** 0.5)
            if name in layer.lora_A:
                sizes[id(layer.lora_A[name].weight)] = down
                sizes[id(layer.lora_B[name].weight)] = up
            else:
                sizes[id(layer.lora_embedding_A[name])] = down
                sizes[id(layer.lora_embedding_B[name])] = up
    return sizes


def cast_adapter(dtype: torch.dtype) -> Callable[[Path], None]:
    """Return an edit that stores all tensors of an adapter in `dtype`."""

    def finish(path: Path) -> None:
        tensors = load_file(path / "adapter_model.safetensors")
        cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        save_file(cast, path / "adapter_model.safetensors", {"format": "pt"})

    return finish


def edit_config(**changes: Any) -> Callable[[Path], None]:
    """Return an edit that changes fields of `adapter_config.json`."""

    def finish(path: Path) -> None:
        config = json.loads((path / "adapter_config.json").read_text())
        text = json.dumps({**config, **changes}, indent=2, sort_keys=True)
        (path / "adapter_config.json").write_text(text)

    return finish
