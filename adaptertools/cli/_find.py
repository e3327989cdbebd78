"""Which adapters does a path mean?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from adaptertools.ref import parse

CONFIG = "adapter_config.json"
SKIPPED = ("node_modules", "__pycache__")

Say = Callable[[OSError], None]


def find(paths: Iterable[str], failed: Say) -> Iterator[Path | str]:
    """Give the folders and repositories that the paths mean, each once.

    A file means its folder. A folder means every folder with an adapter_config.json in it, itself
    included; one where there is none means itself, so that nothing passes for want of a config.
    Folders that cannot be listed go to `failed`. Raises NotFound for what is no reference.
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
            yield path
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
        except OSError as error:
            failed(error)
            continue
        if any(entry.name == CONFIG for entry in held):
            yield folder
        wanted = [name for name in below if not name.startswith(".") and name not in SKIPPED]
        todo += [folder / name for name in reversed(wanted)]
