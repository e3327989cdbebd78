"""Trainable tokens: rows of an embedding replaced by trained ones.  peft/tuners/trainable_tokens

The rows are named `trainable_tokens_delta` and are no differences. token_indices in the config says
which tokens they are; the format makes `TokenRows` of them, which a LoRA can bring too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.update import Update

peft_type = "TRAINABLE_TOKENS"

tensors = {"trainable_tokens_delta": "the trained rows (tokens, dim)"}


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: which tokens are meant is checked with their rows."""


def updates(site: Site) -> Iterable[Update]:
    """Give none: rows are no entry of a module."""
    return []


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
