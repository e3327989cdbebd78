"""Which names of a model are one tensor: from the table, else from transformers' own model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.layouts import known, meta


def ties(config: Mapping[str, Any], name: str, *, ask: bool) -> dict[str, str] | None:
    """Give the tied tensors of a model class (alias -> source); None where nobody can say.

    Transformers is asked where they depend on the config: on the depth, or on a part that is a
    model of its own; and, if `ask`, where the table lacks the class.
    """
    facts = known.architecture(name)
    if not facts.get("ties_vary") and (facts or not ask):
        return known.ties(config, name)
    try:
        if not meta.known({**config, "architectures": [name]}):
            return None
        return dict(getattr(meta.model(config, name), "all_tied_weights_keys", {}))
    except meta.Unmade:
        return None
