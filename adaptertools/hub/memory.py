"""Which files of the cache were verified before, so that using them again costs no hashing.

A file counts as the one that was verified while size, times and inode are the same. `verify` never
asks here, and a memory that is lost costs time only.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

_VERSION = 1
PASSING = ".adaptertools.partial"  # a folder whose files get another name soon


def folder() -> Path:
    """Give the folder that adaptertools keeps beside the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME, "adaptertools")


def cache() -> Path:
    """Give the folder of the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def write(path: Path, text: str) -> None:
    """Write a small file whole, as far as the place can be written to."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, "utf-8")
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


class Memory:
    """The files of one repository that were verified; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._changed = False
        self._files = _load(path)

    def recall(self, path: Path, digest: str) -> str:
        """Give the sha256 of a file that was verified against a digest and is unchanged."""
        with self._lock:
            entry = self._files.get(os.path.realpath(path))
        known = isinstance(entry, list) and entry[:2] == [digest, _state(path)]
        return str(entry[2]) if known and entry else ""

    def keep(self, path: Path, digest: str, sha256: str) -> None:
        """Remember a file that was verified."""
        state = _state(path)
        if digest and state:
            with self._lock:
                self._files[os.path.realpath(path)] = [digest, state, sha256]
                self._changed = True

    def save(self) -> None:
        """Write what was learnt; where that cannot be done, it is learnt again next time."""
        with self._lock:
            if not self._changed:
                return
            files = {name: entry for name, entry in self._files.items() if _stays(name)}
            write(self._path, json.dumps({"version": _VERSION, "files": files}))


def of(repo: str) -> Memory:
    """Give what is remembered of a repository."""
    return Memory(folder() / "verified" / f"models--{repo.replace('/', '--')}.json")


def _stays(name: str) -> bool:
    return os.path.exists(name) and PASSING not in Path(name).parts


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(value, dict) and value.get("version") == _VERSION
    files = value.get("files") if known else None
    return files if isinstance(files, dict) else {}


def _state(path: Path) -> list[int]:
    """Give what changes when a file does; empty where it is gone."""
    try:
        told = path.stat()
    except OSError:
        return []
    return [told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino]
