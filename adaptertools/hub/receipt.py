"""What a local copy was fetched as: the file beside it that makes it checkable later, offline."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptertools.errors import Unreadable, shown
from adaptertools.version import VERSION

# Not adaptertools.json: that is a merge's, and a merged model that is fetched has one.
RECEIPT = "adaptertools.download.json"


def write(
    folder: Path, source: Mapping[str, str | None], files: Sequence[Mapping[str, Any]]
) -> None:
    """Write the receipt of a fetched folder, under its name only when it is whole.

    Args:
        folder: the local copy.
        source: "ref" as it was given, and "repo" and "commit", or "url"; "subfolder" where that is
            all that was fetched. No token, password or signed address may be in it.
        files: of each its "name" in the folder, "size" and "sha256".
    """
    value = {
        "verb": "download", "version": VERSION,
        "source": {key: text for key, text in source.items() if text},
        "files": [dict(file) for file in sorted(files, key=lambda file: str(file["name"]))],
    }  # fmt: skip
    draft = folder / (RECEIPT + ".partial")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / RECEIPT)


def there(folder: Path) -> bool:
    """Tell whether a folder has the receipt of a download."""
    return (folder / RECEIPT).is_file()


def read(folder: Path) -> dict[str, Any]:
    """Read the receipt of a fetched folder; schemas/download.schema.json says what is in it.

    Raises Unreadable where it is damaged or another program's.
    """
    path = folder / RECEIPT
    try:
        value: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable(
            f"{shown(path)} is no receipt of a download ({shown(error)}). Delete it, and download "
            "into the folder again."
        ) from None
    if not isinstance(value, dict) or not _fits(value):
        raise Unreadable(
            f"{shown(path)} is no receipt of a download: it lists no files with their digests. "
            "Delete it, and download into the folder again."
        )
    return value


def _fits(value: Mapping[str, Any]) -> bool:
    files = value.get("files")
    return (
        value.get("verb") == "download"
        and isinstance(value.get("source"), dict)
        and isinstance(files, list)
        and all(
            isinstance(file, dict)
            and isinstance(file.get("name"), str)
            and isinstance(file.get("size"), int)
            and isinstance(file.get("sha256"), str)
            for file in files
        )
    )
