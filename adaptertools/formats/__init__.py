"""How an adapter is spelled on disk. One file per format; it knows names and files, no maths.

A format file recognises its folder and reads it into the normal form, scale resolved.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from adaptertools.adapter import Adapter


class Format(Protocol):
    """The contract of a file in this room."""

    def matches(self, files: Collection[str]) -> bool:
        """Tell from the file names whether the folder is of this format."""
        ...

    def read(self, folder: Path, ref: str) -> Adapter:
        """Read config and headers into the normal form."""
        ...
