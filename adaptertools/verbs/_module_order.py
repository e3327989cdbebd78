"""The order of a model's modules, which no checkpoint says: asked of transformers, without weights.

Only for methods whose tensors mean nothing without that order (TinyLoRA, Uni-LoRA).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.errors import Unsupported, shown
from adaptertools.layouts import known, meta

_WHY = "The adapter's tensors are numbered in the order of the model's modules, "


def module_order(config: Mapping[str, Any], architecture: str) -> tuple[str, ...]:
    """Give every module's name as `named_modules` does, with and without the base-model prefix.

    Raises Unsupported without torch and transformers, or where they cannot make that model.
    """
    try:
        model = meta.model(config, architecture)
    except meta.Unmade as error:
        if not str(error):
            raise meta.without(f"{_WHY}which only transformers knows.") from None
        raise Unsupported(
            f"{_WHY}and transformers makes no {shown(architecture) or 'model'} of the base's "
            f"config.json: {shown(error)}. Merge it with PEFT."
        ) from None
    prefix = known.prefix(config)
    names = [name for name, _ in model.named_modules() if name]
    spelt = ((n, f"{prefix}.{n}", n.removeprefix(f"{prefix}.")) for n in names)
    return tuple(dict.fromkeys(n for several in spelt for n in several))
