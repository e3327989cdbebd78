"""What a download is going to do, what it has done, and what does it: the types between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adaptertools.hub.into import Folder
from adaptertools.hub.memory import Memory
from adaptertools.hub.repo import RemoteFile, Repo
from adaptertools.ref import Ref

Advance = Callable[[int], None]
# Given the number of bytes that are to come, opens what shows them; called with each bunch of them.
Progress = Callable[[int], AbstractContextManager[Advance]]


@dataclass(frozen=True, slots=True)
class Got:
    """A file that is there now."""

    path: Path
    sha256: str
    how: str  # "cached", "fetched", or "repaired": it was damaged, and is not any more
    checked: bool  # whether there was a digest to check it against


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What a download is going to do."""

    ref: Ref
    repo: Repo
    files: Mapping[str, RemoteFile]  # by name in the folder
    there: frozenset[str]  # of these, what is in the cache or the folder already
    left_out: Mapping[str, str]  # name -> why
    into: Folder | None = None  # None is the cache

    @property
    def nbytes(self) -> int:
        """How many bytes have to come over the network, as far as the Hub gives sizes."""
        return sum(file.size or 0 for name, file in self.files.items() if name not in self.there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a download has done."""

    folder: Path
    repo: Repo
    files: Mapping[str, str]  # name in the folder -> sha256
    left_out: Mapping[str, str]  # name -> why
    how: Mapping[str, str]  # name -> "there", "cached", "fetched" or "repaired"
    unchecked: tuple[str, ...] = ()  # the server gave no digest for these


class Source(Protocol):
    """What fetches the files of one state of a repository or a store."""

    memory: Memory
    stop: threading.Event

    def cached(self, name: str) -> Path | None:
        """Give a file's path in the cache; None where it is not there."""

    def get(self, file: RemoteFile, advance: Advance) -> Got:
        """Bring one file here and check it."""

    def settle(self) -> None:
        """Make sure that what came belongs together."""
