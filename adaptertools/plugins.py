"""A room is a folder, a plug-in is a file in it, and the file name is the registration."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).parent


@cache
def names(room: str) -> tuple[str, ...]:
    """List the plug-ins of a room, from the folder."""
    return tuple(sorted(p.stem for p in (_HERE / room).glob("*.py") if not p.stem.startswith("_")))


def load(room: str, name: str) -> ModuleType | None:
    """Import a plug-in, or give None where the room has no such file.

    The name may come from a stranger's config: it is looked up in the folder before any import.
    """
    return import_module(f"adaptertools.{room}.{name}") if name in names(room) else None
