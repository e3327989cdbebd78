"""What was looked at before, by commit: facts of repositories, and places for what was read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adaptertools.hub.repo import RemoteFile, Repo

_FACTS = "repo.json"


@cache
def home() -> Path:
    """Give the folder of everything that was peeked at; one that goes away where none may last."""
    from huggingface_hub import constants

    place = Path(constants.HF_HOME, "adaptertools", "peek")
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK):
            return place
    return Path(_passing().name)


@cache
def _passing() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="adaptertools-peek-")


def place(repo: str, commit: str) -> Path:
    """Give the folder of one commit, or one that goes away for what has no commits: a store."""
    if not commit:
        return Path(tempfile.mkdtemp(dir=_passing().name))
    return home() / f"models--{repo.replace('/', '--')}" / commit


def remember(repo: Repo, name: str, revision: str | None) -> None:
    """Keep a repository's facts, and that a revision of a name is this commit now."""
    text = json.dumps(asdict(repo), default=str).encode()
    said = json.dumps({"id": repo.id, "commit": repo.commit}).encode()
    with suppress(OSError):  # a full disk only makes it ask again
        write(place(repo.id, repo.commit) / _FACTS, lambda draft: draft.write_bytes(text))
        for each in (revision, repo.commit):
            write(_pointer(name, each), lambda draft: draft.write_bytes(said))


def recall(name: str, revision: str | None) -> Repo | None:
    """Give the facts of a revision as they were last told; None where they never were."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        said = json.loads(_pointer(name, revision).read_bytes())
        told: dict[str, Any] = json.loads((place(said["id"], said["commit"]) / _FACTS).read_bytes())
        told["files"] = {name: RemoteFile(**file) for name, file in told["files"].items()}
        return Repo(**told | {"tags": tuple(told["tags"]), "unsafe": tuple(told["unsafe"])})
    return None


def _pointer(name: str, revision: str | None) -> Path:
    folder = home() / f"models--{name.replace('/', '--')}" / "refs"
    return folder / quote(revision or "main", safe="")


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, whoever else does the same meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    os.close(made)
    try:
        fill(Path(name))
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
