"""What the names of an adapter's tensors say: module, role, and what is in the way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from adaptertools import peft_keys
from adaptertools.errors import Unreadable
from adaptertools.patterns import pattern_value
from adaptertools.peft_keys import Key
from adaptertools.tensorfile import TensorSpec

# How other tools spell what PEFT calls lora_A and lora_B.
_FOREIGN = (
    ("kohya's", re.compile(r"^lora_(?:unet|te\d?|transformer)_|\.lora_(?:down|up)\.|\.alpha$")),
    ("MLX's", re.compile(r"\.lora_[ab]$")),
    ("diffusers'", re.compile(
        r"^(?:unet|text_encoder(?:_2)?|transformer\.\w*blocks)\.|\.lora\.(?:down|up)\.")),
    ("LyCORIS'", re.compile(r"^(?!base_model\.).*\.(?:hada|lokr)_w\d")),
)  # fmt: skip
_LONGEST, _MOST = 1000, 200  # letters of a name; names in a list that each tensor is held to
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)(?:\.|$)")

Parts = Mapping[str, TensorSpec]
T = TypeVar("T")


def once(make: Callable[[Parts], T]) -> Callable[[Parts], T]:
    """Keep the last answer: every check of an adapter asks for the same."""
    held: list[tuple[Parts, T]] = []

    def given(tensors: Parts) -> T:
        last = held[0] if held else None
        if last is None or last[0] is not tensors:
            last = (tensors, make(tensors))
            held[:] = [last]  # one step, so that threads cannot mix two adapters up
        return last[1]

    return given


@once
def taken(tensors: Parts) -> tuple[dict[str, Key], Counter[str]]:
    """Take every name apart; give also what does not belong there."""
    junk: Counter[str] = Counter()
    return {name: peft_keys.parse(name, "lora_", junk) for name in tensors}, junk


def keys(tensors: Parts) -> dict[str, Key]:
    """Take every name apart."""
    return taken(tensors)[0]


@once
def modules(tensors: Parts) -> dict[str, dict[str, TensorSpec]]:
    """Give the LoRA tensors of each module by role."""
    found: dict[str, dict[str, TensorSpec]] = {}
    for name, key in keys(tensors).items():
        if key.role.startswith("lora_"):
            parts = found.setdefault(key.target, {})
            if key.role in parts:
                # Several parameters of one module (fused experts) nest: a `base_layer` for each.
                parts = found.setdefault(f"{key.target}{'.base_layer' * (key.nested or 1)}", {})
            parts[key.role] = tensors[name]
    return found


def saved(tensors: Parts) -> dict[str, str]:
    """Give the tensors that are stored whole: name -> the name in the model."""
    return {name: key.target for name, key in keys(tensors).items() if not key.role}


def foreign(name: str) -> str:
    """Name the tool whose spelling this is; empty where it is none that is known."""
    return next((tool for tool, pattern in _FOREIGN if pattern.search(name)), "")


def layer(module: str) -> tuple[int | None, str]:
    """Give the number of the layer that a module lies in, and its name with N for the number."""
    match = _LAYER.search(module)
    if match is None:
        return None, module
    start, end = match.span(1)
    number = int(module[start:end]) if end - start < 7 else None
    return number, f"{module[:start]}N{module[end:]}"


def names(value: object) -> list[str]:
    """Give a config's list of names; empty where it is a pattern, null or anything else."""
    return [n for n in value if isinstance(n, str)] if isinstance(value, list) else []


def meant(modules: Iterable[str], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Give each module that is meant by a name in a list, and by which: by the end of its name."""
    known = frozenset(names)
    most = max((name.count(".") for name in known), default=-1)
    for module in modules:
        at = len(module) if len(module) <= _LONGEST else -1
        for _ in range(most + 1):
            if at < 0:
                break
            at = module.rfind(".", 0, at)
            if (end := module[at + 1 :]) in known:
                yield module, end


def to_save(config: Mapping[str, Any]) -> list[str]:
    """Give the names of modules_to_save; of very many only the first."""
    return names(config.get("modules_to_save"))[:_MOST]


def number(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """Give a module's value from a map of patterns, or the default.

    Raises AdapterToolsError where it cannot be told.
    """
    patterns = config.get(key)
    if patterns and (not isinstance(patterns, dict) or len(patterns) > _MOST):
        raise Unreadable(f"{key} is no map of at most {_MOST} patterns, so nothing was held to it.")
    return pattern_value(config, key, module, default)
