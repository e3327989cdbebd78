"""What an adapter does to one weight. One file per method; it never sees a file or a base name.

A method file states its tensors and turns a `Site` into updates. mypy holds each against `Method`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from adaptertools.adapter import Site
from adaptertools.update import Update


class Method(Protocol):
    """The contract of a file in this room."""

    @property
    def peft_type(self) -> str:
        """The name in adapter_config.json."""
        ...

    @property
    def tensors(self) -> Mapping[str, str]:
        """Role of each tensor it knows -> what it is."""
        ...

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse what cannot be merged, with the reason and the next step."""
        ...

    def updates(self, site: Site) -> Iterable[Update]:
        """Give the updates of the weight, in order."""
        ...

    def bias_updates(self, site: Site) -> Iterable[Update]:
        """Give the updates of the bias."""
        ...
