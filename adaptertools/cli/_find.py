"""Which adapters does a path mean?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from adaptertools.errors import NotFound, shown
from adaptertools.ref import parse

CONFIG = "adapter_config.json"
# What makes a folder an adapter's: the config, or weights that miss it.
MARKS = frozenset({CONFIG, "adapter_model.safetensors", "adapter_model.bin"})
SKIPPED = ("node_modules", "__pycache__")

Say = Callable[[OSError], None]


def find(paths: Iterable[str], failed: Say) -> Iterator[Path | str]:
    """Give the folders and repositories that the paths mean, each once.

    A file means its folder, a folder every one from there down that holds an adapter's config or
    weights. Folders that cannot be listed go to `failed`. Raises NotFound for what is neither
    path nor repository, and for folders with no adapter, lest a wrong path pass for a clean one.
    """
    seen: set[str] = set()
    for text in paths:
        for thing in _meant(text, failed):
            key = os.path.abspath(thing) if isinstance(thing, Path) else thing
            if key not in seen:
                seen.add(key)
                yield thing


def _meant(text: str, failed: Say) -> Iterator[Path | str]:
    path = parse(text).path
    if path is None:
        yield text
    elif path.is_dir():
        found = False
        for folder in tree(path, failed):
            found = True
            yield folder
        if not found:
            raise NotFound(
                f"{shown(path)}: no adapter_config.json here or in the folders below, so there is "
                "nothing to validate. Give the folder that an adapter was saved to."
            )
    else:
        yield path.parent if path.exists() else path


def tree(top: Path, failed: Say) -> Iterator[Path]:
    """Walk the folders from `top` down, in order; follow no links, pass by what is hidden."""
    todo = [top]
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(folder) as entries:
                held = sorted(entries, key=lambda entry: entry.name)
            below = [entry.name for entry in held if entry.is_dir(follow_symlinks=False)]
            files = {entry.name for entry in held} - set(below)
        except OSError as error:
            failed(error)
            continue
        if files & MARKS:
            yield folder
        wanted = [name for name in below if not name.startswith(".") and name not in SKIPPED]
        todo += [folder / name for name in reversed(wanted)]
