"""Models on the meta device, as their configs say by default and in the variants they may have.

A variant is tried for every setting that an ``__init__`` of the modeling code asks about. What
could not be built is listed on stderr.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import initialization
from transformers.pytorch_utils import Conv1D

from . import generate_models as models

# What the default config of a model type lacks to build a model.
NEEDED: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 8},
    "informer": {"prediction_length": 8},
    "time_series_transformer": {"prediction_length": 8},
    "chameleon": {"vocabulary_map": {"<image>": 1}},
    "emu3": {"vocabulary_map": {"<image>": 1}},
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model"}},
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 8},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
    "reformer": {"is_decoder": True},
}
SMALL: dict[str, Any] = {"num_hidden_layers": 2}
KINDS = ("linear", "conv1d", "other", "experts", "plain")
Facts = dict[str, set[str]]


def template(name: str) -> str:
    """Write N for every index in a name."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)|(?<=expert_)\d+", "N", f".{name}")[1:]


def build(cls: Any, settings: dict[str, Any], **changes: Any) -> Any:
    """Build a model on the meta device; changes are made to every config that has the setting."""
    config = cls.config_class(**settings)
    for part in configs(config):
        for name, value in changes.items():
            if hasattr(part, name):
                setattr(part, name, value)
    with torch.device("meta"), initialization.no_init_weights():
        return cls(config)


def configs(config: Any) -> Iterator[Any]:
    """Give a config and those nested in it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, transformers.PreTrainedConfig):
            yield from configs(value)


def kind(module: nn.Module) -> str:
    """Say what replace_with_bnb_linear would see."""
    if isinstance(module, Conv1D):
        return "conv1d"
    return "linear" if type(module) is nn.Linear else "other"


def look(model: Any) -> Facts:
    """Sort the modules with a 2-D weight by their kind.

    Name also the parameters of fused experts, and 2-D ones that are weights by another name.
    """
    found: Facts = defaultdict(set)
    for path, module in model.named_modules():
        expert = re.search(r"expert", f"{path}.{type(module).__name__}", re.IGNORECASE)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" and parameter.ndim == 2:
                found[kind(module)].add(path)
            elif expert and parameter.ndim >= 2 and "bias" not in name:
                found["experts"].add(f"{path}.{name}".removesuffix(".weight"))
            elif parameter.ndim == 2 and re.search(r"weight|proj", name):
                found["plain"].add(f"{path}.{name}")
    return found


@cache
def asked(module: Any) -> dict[str, set[str]]:
    """Name the settings that the __init__s of a module test, and the words they are held to."""
    found: dict[str, set[str]] = defaultdict(set)
    for function in ast.walk(ast.parse(inspect.getsource(module))):
        if not (isinstance(function, ast.FunctionDef) and function.name == "__init__"):
            continue
        for test in (n.test for n in ast.walk(function) if isinstance(n, (ast.If, ast.IfExp))):
            parts = list(ast.walk(test))
            words = {p.value for p in parts if isinstance(p, ast.Constant)}
            for part in parts:
                if isinstance(part, (ast.Attribute, ast.Name)):
                    name = part.attr if isinstance(part, ast.Attribute) else part.id
                    found[name] |= {word for word in words if isinstance(word, str)}
    return found


def alternatives(value: Any, words: set[str]) -> list[Any]:
    """Give other values for a setting."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [None, 0, max(1, value // 2)]
    if isinstance(value, str):
        return sorted(words - {value})
    return [8, True] if value is None else [[] if value else [0]] if value in ([], ()) else []


@lru_cache(maxsize=4)
def first(model_type: str, name: str) -> tuple[dict[str, Any], Any] | None:
    """Build a model class with the first settings that do, and give such settings that are small.

    None where no settings do.
    """
    cls, reason = models.load(model_type, name), ""
    if cls is None:
        return None
    for settings in ({}, NEEDED.get(model_type, {}), *models.CONFIGS):
        try:
            model = build(cls, settings)
        except Exception as error:
            reason = reason or " ".join(str(error).split())[:120]
            continue
        try:
            build(cls, settings | SMALL)
        except Exception:
            return settings, model
        return settings | SMALL, model
    models.note(f"{model_type}: {name} left out: {reason}")
    return None


@cache
def variants(model_type: str, name: str) -> Facts:
    """Give the templates of all models that a class may be, by the kind of module."""
    found: Facts = {kind: set() for kind in KINDS}
    small, model = first(model_type, name) or ({}, None)
    if model is None:
        return found
    found |= {key: {template(one) for one in names} for key, names in look(model).items()}
    tested = asked(sys.modules[type(model).__module__])
    changes: list[dict[str, Any]] = [{"is_decoder": True, "add_cross_attention": True}]
    for setting in sorted(tested.keys() - {"tie_word_embeddings", "_attn_implementation"}):
        values = [getattr(c, setting) for c in configs(model.config) if hasattr(c, setting)]
        others = [other for old in values for other in alternatives(old, tested[setting])]
        changes += [{setting: other} for other in {str(o): o for o in others}.values()]
    for change in changes:
        try:
            seen = look(build(type(model), small, **change))
        except Exception:
            continue  # not a model that can be
        for key, names in seen.items():
            found[key] |= {template(one) for one in names}
    return found
