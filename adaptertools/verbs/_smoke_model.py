"""A model and an adapter as smoke meets them: named, found, and described by their configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools import tensorfile
from adaptertools.errors import Unsafe, shown
from adaptertools.verbs._config import embedding

MODEL, ADAPTER, WEIGHTS = "config.json", "adapter_config.json", "adapter_model.safetensors"


def _implementations(said: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Give the implementations that a config asks for, in its parts too."""
    if isinstance(said, Mapping):
        for name, value in said.items():
            yield from _implementations(value, name if "implementation" in name else key)
    elif key and isinstance(said, str):
        yield key, said


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: as it was named, where it is, and its config.json."""

    ref: str
    folder: Path
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raise Unsafe for a config that has transformers fetch code and run it."""
        for key, name in _implementations(self.config):
            if "/" in name:
                raise Unsafe(
                    f"{shown(self.ref)}: its config.json names the kernel {shown(name)} as {key}, "
                    f"which transformers fetches from the Hub and runs. Take {key} out of it."
                )

    @property
    def nbytes(self) -> int:
        """Size of its weights on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    @property
    def packing(self) -> Mapping[str, Any]:
        """What it says about how it is quantised on disk; empty where it is not."""
        found = self.config.get("quantization_config")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One adapter that is run beside the base, by PEFT."""

    ref: str
    folder: Path
    config: Mapping[str, Any]  # its adapter_config.json
    scale: float = 1.0  # what the merge multiplied its update by

    @property
    def plain(self) -> bool:
        """Whether it only adds scaled products to weights: those sum, and can be rescaled."""
        c = self.config
        only = c.get("peft_type") == "LORA" and not c.get("use_dora")
        whole = c.get("modules_to_save") or c.get("trainable_token_indices")
        return only and not whole and c.get("bias", "none") == "none"

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        header = tensorfile.read_header(self.folder / WEIGHTS).tensors
        return {name: spec.shape for name, spec in header.items() if len(spec.shape) == 2}

    @property
    def labels(self) -> int | None:
        """How many labels the head has that it brings along; None where it brings none."""
        saved = [f".{name}." for name in self.config.get("modules_to_save") or ()]
        heads = {
            name: shape[0]
            for name, shape in self._shapes().items()
            if any(each in name for each in saved) and not embedding(name)
        }
        return heads[max(heads)] if heads else None

    @property
    def vocabulary(self) -> int | None:
        """How many rows the embeddings have that it brings along; None where it brings none."""
        rows = [shape[0] for name, shape in self._shapes().items() if embedding(name)]
        return max(rows, default=None)
