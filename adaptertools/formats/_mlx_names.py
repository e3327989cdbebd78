"""What MLX-LM calls the modules of transformers' models: the same, but for a few families.

Facts from the module trees of mlx-lm 0.32 beside those of transformers 5: Llama, Qwen 2 and 3, Phi
and others have equal names; experts are stacked under `switch_mlp`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

# Ours -> MLX's; the first that fits a name decides. GPT-2; models with a picture part.
_RENAMED: Mapping[re.Pattern[str], str] = {
    re.compile(r"^transformer\.(?=h\.\d+\.(?:attn\.c_|mlp\.c_)|wte$)"): "model.",
    re.compile(r"^model\.language_model\."): "language_model.model.",
}
_BACK: Mapping[re.Pattern[str], str] = {
    re.compile(r"^model\.(?=h\.\d+\.(?:attn\.c_|mlp\.c_)|wte$)"): "transformer.",
    re.compile(r"^language_model\.model\."): "model.language_model.",
}
# Mixtral numbers its matrices; others name them as MLX does.
_EXPERT = re.compile(r"^(?P<above>.+)\.experts\.(?P<number>\d+)\.(?P<part>\w+)$")
_NUMBERED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_PARTS = frozenset(_NUMBERED.values())
_STACKED = re.compile(r"^(?P<above>.+)\.switch_mlp\.(?P<part>gate_proj|up_proj|down_proj)$")


class Expert(NamedTuple):
    """A module of one expert, and the stack of all experts that it is part of."""

    stack: str
    number: int


def renamed(target: str) -> str:
    """Give MLX's name of a module."""
    return _first(_RENAMED, target)


def ours(module: str) -> str:
    """Give transformers' name of an MLX module."""
    return _first(_BACK, module)


def expert(target: str) -> Expert | None:
    """Tell an expert's module, by transformers' name; None for any other module."""
    match = _EXPERT.match(target)
    if match is None:
        return None
    part = _NUMBERED.get(match["part"], match["part"])
    if part not in _PARTS:
        return None
    return Expert(f"{renamed(match['above'])}.switch_mlp.{part}", int(match["number"]))


def experts(module: str, count: int) -> list[str] | None:
    """Name the modules of all experts that MLX stacks in one; None for any other module."""
    match = _STACKED.match(module)
    if match is None:
        return None
    back = {name: number for number, name in _NUMBERED.items()}
    mixtral = match["above"].endswith("block_sparse_moe")
    part = back[match["part"]] if mixtral else match["part"]
    above = ours(match["above"])
    return [f"{above}.experts.{number}.{part}" for number in range(count)]


def is_embedding(module: str) -> bool:
    """Tell an embedding by its last name; both kinds of module have factors of like shapes."""
    last = module.rpartition(".")[2]
    return "embed" in last or last in ("wte", "wpe")


def _first(table: Mapping[re.Pattern[str], str], name: str) -> str:
    for pattern, new in table.items():
        if pattern.search(name):
            return pattern.sub(new, name)
    return name
