"""What each tensor of a checkpoint is to an adapter: a matrix that takes factors, or a whole."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adaptertools.layouts import known
from adaptertools.layouts._linear_models import Model, find, leaves, placed
from adaptertools.tensorfile import TensorSpec

# "linear" is stored (out, in), "conv1d" (in, out); "unsure" is one of both, and nothing says which.
Kind = Literal["linear", "conv1d", "unsure", "expert", "whole"]

_HEADS = frozenset(("lm_head", "embed_out", "output_projection", "score", "classifier",
                    "qa_outputs", "vocab_projector"))  # fmt: skip
_EXPERT = re.compile(r"\bexperts\b")
_NOT_LINEAR = re.compile(r"embed|wte|wpe|norm|gate$|router|conv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One tensor: its name in the model that PEFT sees, and what it is."""

    name: str
    kind: Kind

    @property
    def module(self) -> str:
        """The module that the tensor is a parameter of; empty for the model itself."""
        return self.name.rpartition(".")[0]


def roles(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> dict[str, Role]:
    """Say of every tensor what it is, from the model type and class that the config names.

    A class that is not known is judged by names alone. Heads and embeddings are wholes.
    """
    model = find(config)
    found = {name: placed(name, model) if model else (name, "") for name in tensors}
    spelled = {name: _spelled(name, full) for name, (full, _) in found.items()}
    added = {new.removesuffix(name) for name, new in spelled.items() if len(new) > len(name)}
    taken = {name.removesuffix(new) for name, new in spelled.items() if len(new) < len(name)}
    held = {}
    for name, spec in tensors.items():
        full = spelled[name]
        if not found[name][1]:  # norms and biases go where the matrices beside them went
            full = next((p + name for p in added if not name.startswith(p)), name)
            full = next((name.removeprefix(p) for p in taken if name.startswith(p)), full)
        held[name] = Role(name=full, kind=_kind(full, found[name][1], spec, config, model))
    return held


def renamed(config: Mapping[str, Any], tensors: Collection[str]) -> dict[str, str]:
    """Give the names in the model of those weights that a checkpoint calls otherwise."""
    model = find(config)
    found = {name: placed(name, model)[0] for name in tensors} if model else {}
    return {name: full for name, full in found.items() if full not in tensors}


def _spelled(name: str, full: str) -> str:
    """Take the model's name only where it differs by a prefix: else the checkpoint's is known."""
    return full if full.endswith(name) or name.endswith(full) else name


def _kind(
    name: str, kind: str, spec: TensorSpec, config: Mapping[str, Any], model: Model | None
) -> Kind:
    if kind == "experts" or (_EXPERT.search(name) and len(spec.shape) > 2):
        return "expert"
    module, _, last = name.rpartition(".")
    if len(spec.shape) != 2 or last != "weight" or not module or _head(name, config):
        return "whole"
    leaf = module.rpartition(".")[2]
    if kind in ("linear", "conv1d"):
        pass
    elif model is not None and kind:
        return "whole"
    elif leaf not in leaves() or _NOT_LINEAR.search(leaf):
        # A Conv1D of a type that is not known is called as the known ones are.
        return "whole" if known.stores_in_out(module, config) is not None else "unsure"
    turned = known.stores_in_out(module, config)
    return "unsure" if turned is None else "conv1d" if turned else "linear"


def _head(name: str, config: Mapping[str, Any]) -> bool:
    names = config.get("architectures")
    facts = known.architecture(str(names[0])) if isinstance(names, list) and names else {}
    tied = facts.get("tied", {})
    listed = {*facts.get("head", ()), *tied, *(tied.values() if isinstance(tied, dict) else ())}
    return name in listed or name.split(".")[-2] in _HEADS
