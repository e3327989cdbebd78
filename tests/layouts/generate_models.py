"""Write adaptertools/layouts/models.json, the facts about model types taken from transformers.

Run ``python tests/layouts/generate_models.py`` with the transformers version to record. What could
not be found out is listed on stderr and left out of the table.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.auto_factory import getattribute_from_module
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.pytorch_utils import Conv1D

TABLE = Path(__file__).parents[2] / "adaptertools" / "layouts" / "models.json"
# From the class that says most about a model type's prefix to the one that says least.
HEADS: dict[str, Any] = {
    "FEATURE_EXTRACTION": auto.MODEL_MAPPING_NAMES,
    "MASKED_LM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "CAUSAL_LM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
WITH_NEW_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
# Default configs are first shrunk, then taken as they are, then given what some leave unset.
CONFIGS: tuple[dict[str, Any], ...] = (
    {"num_hidden_layers": 2},
    {},
    {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 64},
)
# A forward that multiplies the hidden states if the embeddings are tied (T5 and its kin).
RESCALING = re.compile(
    r"if self\.config\.(?:tie_word_embeddings|scale_decoder_outputs):\n"
    r"(?:\s*#.*\n)*\s*(\w+) = \1 \* "
)


def note(words: str) -> None:
    """Say on stderr what is left out."""
    sys.stderr.write(f"{words}\n")


def load(model_type: str, name: str) -> Any:
    """Import a model class, or say why not and return None."""
    try:
        package = f"transformers.models.{model_type_to_module_name(model_type)}"
        found: Any = getattribute_from_module(importlib.import_module(package), name)
        _ = found.base_model_prefix  # raises for a stand-in of a class that lacks a dependency
    except Exception as error:
        note(f"{model_type}: {name} left out: {' '.join(str(error).split())[:120]}")
        return None
    return found


def family_prefix(cls: Any) -> str:
    """Return the base_model_prefix of the PreTrainedModel that a family's classes derive from."""
    bases = cls.__mro__[: cls.__mro__.index(transformers.PreTrainedModel)]
    own = [vars(base)["base_model_prefix"] for base in bases if "base_model_prefix" in vars(base)]
    return str(own[-1]) if own else ""


def tie_default(cls: Any) -> bool | None:
    """Return whether a config that does not say so ties the word embeddings, None if unknown."""
    config_class = cls.config_class
    try:
        config = config_class()
        configs = [config, config.get_text_config()]
    except Exception:  # the default config is not a valid one
        configs = [config_class]
    values = [getattr(config, "tie_word_embeddings", None) for config in configs]
    return next((value for value in values if isinstance(value, bool)), None)


def tie_all(config: Any) -> Any:
    """Have a config and those nested in it tie the word embeddings."""
    for part in (config, *vars(config).values()):
        if part is not config and isinstance(part, transformers.PreTrainedConfig):
            tie_all(part)
    config.tie_word_embeddings = True
    return config


def tied(cls: Any) -> dict[str, Any]:
    """Return what a model of a class ties, or that it depends on its config: parts and depth."""
    for settings in CONFIGS:
        try:
            with torch.device("meta"):
                model = cls(tie_all(cls.config_class(**settings)))
        except Exception:
            continue
        parts = [m for m in model.modules() if isinstance(m, transformers.PreTrainedModel)]
        ties = {type(m) for m in parts if m._tied_weights_keys}
        names = dict(model.all_tied_weights_keys)
        deep = any(re.search(r"\.\d", name) for name in names)
        foreign = {t.__module__ for t in ties} - {cls.__module__}
        if deep or foreign or "_tied_weights_keys" in vars(model):
            return {"ties_vary": True}
        return {"tied": names} if names else {}
    note(f"{cls.__name__}: ties taken from the class")
    return {"tied": dict(cls._tied_weights_keys)} if cls._tied_weights_keys else {}


def parameters(cls: Any) -> list[str]:
    """Name the parameters of a model of a class built on the meta device."""
    reason = ""
    for settings in CONFIGS:
        try:
            with torch.device("meta"):
                model = cls(cls.config_class(**settings))
            return [name for name, _ in model.named_parameters()]
        except Exception as error:
            reason = reason or " ".join(str(error).split())[:120]
    note(f"{cls.__name__}: head left out: {reason}")
    return []


def head(cls: Any, base: Any) -> list[str]:
    """Name the parameters that a model of a class has outside its base model."""
    names = parameters(cls)
    outside = [name for name in names if not name.startswith(f"{cls.base_model_prefix}.")]
    if names and outside == names and base is not None:  # the base model's modules lie at the top
        inside = set(parameters(base))
        outside = [name for name in names if name not in inside]
    if names and not outside:
        note(f"{cls.__name__}: head left out: no parameter outside {cls.base_model_prefix!r}")
    return outside


def needs(cls: Any, masked: Any) -> list[str]:
    """Name the parameters in a class's base model that one of masked words lacks: a pooler."""
    if masked is None:
        return []
    prefix = f"{cls.base_model_prefix}."
    said = {*parameters(masked), *tied(masked).get("tied", {}).values()}
    if not any(name.startswith(prefix) for name in said):
        return []
    lacking = [n for n in parameters(cls) if n.startswith(prefix) and n not in said]
    return [name for name in lacking if not re.search(r"\.\d", name)]


def facts(only: frozenset[str] | None = None) -> dict[str, Any]:
    """Return the table for all model types, or for some."""
    models: dict[str, Any] = {}
    classes: dict[str, Any] = {}
    for model_type in sorted(set().union(*HEADS.values())):
        if only is not None and model_type not in only:
            continue
        found = {}
        for task, mapping in HEADS.items():
            name = mapping.get(model_type)
            name = name[0] if isinstance(name, (list, tuple)) else name
            if name and (cls := load(model_type, name)):
                found[task] = cls
        if not found:
            continue
        prefix = family_prefix(next(iter(found.values())))
        entry = models[model_type] = {"prefix": prefix}
        entry |= {"heads": {task: cls.__name__ for task, cls in found.items()}}
        modules = {sys.modules[cls.__module__] for cls in found.values()}
        if any(getattr(module, "Conv1D", None) is Conv1D for module in modules):
            entry["conv1d"] = True
        if any(RESCALING.search(inspect.getsource(module)) for module in modules):
            entry["rescales_when_tied"] = True
        for task, cls in found.items():
            facet: dict[str, Any] = classes.setdefault(cls.__name__, {})
            tie = tie_default(cls)
            facet |= {"prefix": cls.base_model_prefix} if cls.base_model_prefix != prefix else {}
            facet |= tied(cls)
            facet |= {"tie_default": tie} if tie is not None else {}
            if task in WITH_NEW_HEAD and "head" not in facet:
                names = head(cls, found.get("FEATURE_EXTRACTION"))
                facet |= {"head": names} if names else {}
                more = needs(cls, found.get("MASKED_LM"))
                facet |= {"needs": more} if more else {}
    said = {name: facet for name, facet in classes.items() if facet}
    return {"transformers": transformers.__version__, "models": models, "classes": said}


def render(table: dict[str, Any]) -> str:
    """Write a table as JSON with one model or class a line."""

    def compact(value: object) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    parts = []
    for key, value in sorted(table.items()):
        if isinstance(value, dict):
            lines = ",\n".join(f'"{name}":{compact(value[name])}' for name in sorted(value))
            parts.append(f'"{key}":{{\n{lines}\n}}')
        else:
            parts.append(f'"{key}":{compact(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Write the table."""
    transformers.utils.logging.set_verbosity_error()
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(render(facts()), encoding="utf-8")


if __name__ == "__main__":
    main()
