"""Layers that PEFT replicates for training (`layer_replication`), written out as real layers.

PEFT shares the weights of the copies and adapts each on its own (peft/tuners/tuners_utils.py,
replicate_layers), so a merged model needs one tensor per copy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from adaptertools.errors import Unreadable, Unsupported, first, shown

_LAYER = re.compile(
    r"(?P<stem>(?:.*\.)?(?:layers|h|encoder\.layer))\.(?P<number>\d+)\.(?P<rest>.+)"
)
MAX_LAYERS = 10_000
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")


def order(replication: Any, count: int) -> list[int]:
    """Give, for each layer to be, the base's layer it copies: [[0, 2], [1, 3]] -> 0 1 1 2."""
    refused = Unreadable(
        f"layer_replication is {shown(replication)}, and the base has {count} layers. "
        "A list of ranges [start, stop] within them was expected."
    )
    layers: list[int] = []
    for span in replication if isinstance(replication, list | tuple) else [None]:
        if not isinstance(span, list | tuple) or [type(n) for n in span] != [int, int]:
            raise refused
        start, stop = span
        if not 0 <= start <= stop <= count or len(layers) > MAX_LAYERS:
            raise refused
        layers += range(start, stop)
    if not layers:
        raise refused
    return layers


def rename(names: Collection[str], layers: list[int]) -> dict[str, list[str]]:
    """Give the new names of every tensor: those of a layer once per copy, the others their own."""
    found = {name: _LAYER.fullmatch(name) for name in names}
    if len(stems := {m["stem"] for m in found.values() if m}) != 1:
        raise Unsupported(
            f"layer_replication needs one stack of layers, the base has {len(stems)} "
            f"({first(sorted(stems))}). Serve the adapter with PEFT."
        )
    return {
        name: [
            f"{m['stem']}.{new}.{m['rest']}"
            for new, old in enumerate(layers)
            if old == int(m["number"])
        ]
        if m
        else [name]
        for name, m in found.items()
    }


def depth(config: Mapping[str, Any]) -> tuple[str, int]:
    """Give the config key that counts the layers, and the count."""
    for key in _COUNTS:
        if isinstance(config.get(key), int):
            return key, config[key]
    raise Unsupported(
        "layer_replication is set, and the base's config.json does not say how many layers it has "
        f"({', '.join(_COUNTS)}). Serve the adapter with PEFT."
    )


def reconfigure(config: Mapping[str, Any], layers: list[int]) -> dict[str, Any]:
    """Give the config of the model with its layers written out; per-layer lists follow."""
    key, count = depth(config)
    longer = {
        k: [v[i] for i in layers]
        for k, v in config.items()
        if isinstance(v, list) and len(v) == count and ("layer" in k or k == "attention_types")
    }
    return {**config, **longer, key: len(layers)}
