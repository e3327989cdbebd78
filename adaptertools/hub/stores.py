"""Adapters in stores that fsspec opens: s3://, gs://, az://, file://, memory:// …

A store has no commits and no digests that could be relied on. So a folder's listing is hashed into
something that stands for its commit, a receipt beside the files says their digests, and what is
read is held against its size. Whole files come by `store_pull` and go by `store_push`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptertools.errors import HubError, NotFound, shown
from adaptertools.hub.repo import RemoteFile, Repo
from adaptertools.hub.store_door import explained, opened

RECEIPT = "adaptertools.upload.json"
MOST, DEEPEST, FOLDERS = 20_000, 8, 200  # files, levels and folders that are listed
_LARGEST_RECEIPT = 5_000_000
# What changes when a file does, by driver.
_MARKS = ("ETag", "etag", "e_tag", "md5Hash", "content_md5", "generation", "mtime", "LastModified",
          "last_modified", "updated", "created")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a store."""

    name: str
    size: int
    mark: str


def listing(url: str) -> Repo:
    """List the files of a folder in a store, with the digests that its receipt says.

    Raises NotFound where there is no folder, HubError where the store fails or refuses, and
    Unsupported where its driver is not installed.
    """
    files, root = opened(url)
    with explained(url):
        rows = entries(files, root, url)
        if not rows:
            raise NotFound(f"{shown(url)}: there is no such folder, or nothing in it.")
        told = _told(files, root, rows)
    held = {row.name: RemoteFile(name=row.name, size=row.size, sha256=told.get(row.name))
            for row in rows}  # fmt: skip
    return Repo(id=url, commit=_commit(rows), files=held)


def read(url: str, name: str, start: int, stop: int) -> bytes:
    """Read bytes of a file; all of them, or HubError."""
    files, root = opened(url)
    with explained(f"{url}/{name}"):
        # By keyword: the second argument of s3fs is another one.
        data: bytes = files.cat_file(f"{root}/{name}", start=start, end=stop)
    if len(data) != stop - start:
        raise HubError(
            f"{shown(url)}/{shown(name)}: the store sent {len(data)} bytes, {stop - start} were "
            "expected. The file is shorter than the store lists, or was replaced meanwhile."
        )
    return data


def entries(files: Any, root: str, url: str) -> list[Entry]:
    """List what lies in a folder and below, as far as an adapter's folder can reach."""
    files.invalidate_cache()
    found: list[Entry] = []
    todo, seen = [(root, 0)], 0
    while todo and len(found) < MOST and seen < FOLDERS:
        place, level = todo.pop()
        seen += 1
        for row in files.ls(place, detail=True):
            path = str(row["name"]).rstrip("/")
            if path.lstrip("/") == place.lstrip("/"):
                if row["type"] == "file" and row["size"] and level == 0:
                    raise NotFound(f"{shown(url)} is a file. Give the folder that it lies in.")
                continue  # how S3 marks a folder
            if row["type"] == "directory":
                todo += [(path, level + 1)] if level < DEEPEST and not row.get("islink") else []
            else:
                name = path.lstrip("/").removeprefix(root.lstrip("/")).lstrip("/")
                found.append(Entry(name, int(row["size"] or 0), _mark(row)))
    return sorted(found, key=lambda entry: entry.name)


def held(url: str) -> Repo | None:
    """List a folder as `listing` does; None where there is none yet."""
    try:
        return listing(url)
    except NotFound:
        return None


def _mark(row: Mapping[str, Any]) -> str:
    return next((str(row[key]) for key in _MARKS if row.get(key)), "")


def _commit(rows: list[Entry]) -> str:
    """Hash a listing: equal as long as nothing was written."""
    text = json.dumps([(row.name, row.size, row.mark) for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _told(files: Any, root: str, rows: list[Entry]) -> dict[str, str]:
    """Read the digests from the receipt; a receipt that cannot be read says nothing."""
    mine = next((row for row in rows if row.name == RECEIPT), None)
    if mine is None or mine.size > _LARGEST_RECEIPT:
        return {}
    try:
        told = json.loads(files.cat_file(f"{root}/{RECEIPT}"))["files"]
        return {str(file["name"]): str(file["sha256"]) for file in told}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
