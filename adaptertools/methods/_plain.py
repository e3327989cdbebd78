"""What most methods have in common: every config merges, and the bias stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adaptertools.adapter import Site
from adaptertools.update import Update


def check(config: Mapping[str, Any]) -> None:
    """Accept every config: the tensors say all."""


def bias_updates(site: Site) -> Iterable[Update]:
    """Leave the bias as it is."""
    return []
