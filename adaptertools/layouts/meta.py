"""The model that a config describes, made by transformers on the meta device: names, no weights.

A door: one of the few places that may import torch and transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

from adaptertools.errors import Unsupported, shown


class Unmade(Exception):
    """The reason why there is no such model; empty where torch or transformers is missing."""


def architecture(config: Mapping[str, Any]) -> str:
    """Give the class that a config names, or the base model of its type; empty for neither.

    Raises Unmade without transformers.
    """
    _imported()
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    said = config.get("architectures") or MODEL_MAPPING_NAMES.get(config.get("model_type"), "")
    return str(said[0]) if isinstance(said, list | tuple) else str(said)


def known(config: Mapping[str, Any]) -> bool:
    """Tell whether transformers has the model type and the class; raises Unmade without it."""
    transformers = _imported()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = getattr(transformers, architecture(config), None)
    return config.get("model_type") in CONFIG_MAPPING_NAMES and isinstance(kind, type)


def model(config: Mapping[str, Any], name: str) -> Any:
    """Make the PreTrainedModel of a class name, its parameters on the meta device, untied.

    Raises Unmade without torch and transformers, or where they cannot make that model.
    """
    return _made(json.dumps(dict(config), sort_keys=True), name)


def without(why: str) -> Unsupported:
    """Say what is missing where transformers is."""
    return Unsupported(f"{why} Install the extra: pip install 'adaptertools[models]'.")


def _imported() -> Any:
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError:
        raise Unmade from None
    return transformers


def _bare(said: dict[str, Any]) -> Any:
    """Leave out what names code: kernels for attention or experts, classes of a repository."""
    if said.keys() == {"__float__"}:  # so transformers writes what JSON has no number for
        return float(said["__float__"])
    named = ("auto_map", "quantization_config")
    return {k: v for k, v in said.items() if "implementation" not in k and k not in named}


@lru_cache(maxsize=2)
def _made(config: str, name: str) -> Any:
    transformers = _imported()
    kind = getattr(transformers, name, None)
    try:
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise TypeError("it is the name of no model")
        whole = transformers.AutoConfig.for_model(**json.loads(config, object_hook=_bare))
        with ExitStack() as stack:
            for context in _contexts(kind):
                stack.enter_context(context)
            return kind(whole)
    except Exception as error:  # whatever a model's constructor may raise
        raise Unmade(shown(error)) from None


def _contexts(kind: Any) -> list[Any]:
    """Give those of from_pretrained: some constructors read a number that has no value on meta."""
    import torch

    try:
        contexts: list[Any] = kind.get_init_context(torch.float32, False, False, None)
    except (AttributeError, TypeError):  # an older transformers
        contexts = [torch.device("meta")]
    return contexts
