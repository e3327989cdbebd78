"""Save an open adapter in a format: `convert` by another name, for those who hold an object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptertools.adapter import Adapter
from adaptertools.report import Report
from adaptertools.verbs.convert import convert


def save(adapter: Adapter, path: str | Path, *, format: str | None = None, **how: Any) -> Report:
    """Write an adapter to a path that is not there yet, as PEFT does where nothing else is said.

    `how` is what `convert` takes.

    Raises what `convert` raises.
    """
    return convert(adapter, out=path, to=format, **how)
