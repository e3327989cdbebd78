"""What a verb wrote and what it read, by digests: for its receipt, and to check it again later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptertools.adapter import Adapter
from adaptertools.hub import digests
from adaptertools.verbs._stack_told import short

CARD = "README.md"  # for people, who may rewrite it


def written(folder: Path, names: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Give name, size and sha256 of every file but the card; `names` are those it will have."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return [
        {"name": (names or {}).get(name, name), "size": path.stat().st_size,
         "sha256": digests.sha256(path)}
        for name, path in found.items()
        if path.is_file() and name != CARD
    ]  # fmt: skip


def read(adapter: Adapter) -> dict[str, Any]:
    """Name a converted adapter, without a path of this machine, and what of it was read.

    Of formats whose tensors are put together first, no file is known.
    """
    home = Path(adapter.folder).resolve()
    files = {Path(spec.file).resolve() for spec in adapter.tensors.values()}
    files = {path for path in files if home in path.parents}
    if files and (home / "adapter_config.json").is_file():
        files.add(home / "adapter_config.json")
    return {
        "ref": short(adapter.ref),
        "files": {p.relative_to(home).as_posix(): digests.sha256(p) for p in sorted(files)},
    }


def said(receipt: Path) -> Any:
    """Read a receipt; raises OSError, ValueError or RecursionError for damage."""
    return json.loads(receipt.read_text("utf-8"))
