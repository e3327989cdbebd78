"""The order of a model's modules, which no checkpoint says: asked of transformers, without weights.

A door: one of the few places that may import torch and transformers, and only when a method's
tensors mean nothing without that order (TinyLoRA, Uni-LoRA).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from adaptertools.errors import Unsupported, shown
from adaptertools.layouts import known


def module_order(config: Mapping[str, Any], architecture: str) -> tuple[str, ...]:
    """Give every module's name as `named_modules` does, with and without the base-model prefix.

    Raises Unsupported without torch and transformers, or where they cannot make that model.
    """
    prefix = known.prefix(config)
    names = _named(json.dumps(dict(config), sort_keys=True), architecture)
    spelt = ((n, f"{prefix}.{n}", n.removeprefix(f"{prefix}.")) for n in names)
    return tuple(dict.fromkeys(n for several in spelt for n in several))


def _bare(said: Any) -> Any:
    """Leave out what names code: kernels for attention or experts, classes of a repository."""
    if not isinstance(said, dict):
        return said
    named = ("auto_map", "quantization_config")
    return {k: _bare(v) for k, v in said.items() if "implementation" not in k and k not in named}


@lru_cache(maxsize=2)
def _named(config: str, architecture: str) -> tuple[str, ...]:
    try:
        import torch
        import transformers
    except ImportError:
        raise Unsupported(
            "The adapter's tensors are numbered in the order of the model's modules, which only "
            "transformers knows. Install the extra: pip install 'adaptertools[models]'."
        ) from None
    kind = getattr(transformers, architecture, None)
    said = _bare(json.loads(config))
    try:
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise TypeError("it is the name of no model")
        whole = transformers.AutoConfig.for_model(**said)
        with torch.device("meta"):
            model = kind(whole)
    except Exception as error:  # whatever a model's constructor may raise
        raise Unsupported(
            "The adapter's tensors are numbered in the order of the model's modules, and "
            f"transformers makes no {shown(architecture) or 'model'} of the base's config.json: "
            f"{shown(error)}. Merge it with PEFT."
        ) from None
    return tuple(name for name, _ in model.named_modules() if name)
