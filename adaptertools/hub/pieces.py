"""What is sent: each file's size and digests, whether the Hub has it already, and how far it is."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from adaptertools.hub import digests

if TYPE_CHECKING:
    from adaptertools.hub.repo import RemoteFile

Content = Path | bytes


class Piece:
    """One file to send, from a path or from memory; digests are computed when they are needed."""

    def __init__(self, name: str, content: Content) -> None:
        self.name = name
        self.content = content

    @cached_property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """What LFS knows it by."""
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        return digests.sha256(self.content)

    @cached_property
    def blob(self) -> str:
        """What git knows it by."""
        if isinstance(self.content, Path):
            return digests.git_sha1(self.content)
        head = b"blob %d\0" % self.size
        return hashlib.sha1(head + self.content, usedforsecurity=False).hexdigest()

    def fault(self, remote: RemoteFile | None) -> str:
        """Say how the Hub's file differs; empty where it does not, as far as the Hub tells."""
        if remote is None:
            return "it is not there"
        if remote.size is not None and remote.size != self.size:
            return f"it has {remote.size} bytes, {self.size} were sent"
        kind, own = ("sha256", self.sha256) if remote.sha256 else ("git sha1", "")
        held = remote.sha256 or remote.blob
        if held and held != (own or self.blob):
            return f"its {kind} is {held}, which is not that of what was sent"
        return ""

    def there(self, remote: RemoteFile | None) -> bool:
        """Tell whether the Hub is known to have it as it is."""
        known = remote is not None and bool(remote.sha256 or remote.blob)
        return known and not self.fault(remote)


class Meter:
    """Counts bytes that are through, each once, however often a transfer is tried again."""

    def __init__(self, progress: Callable[[int], object] | None) -> None:
        self._progress = progress or (lambda count: None)
        self._far: dict[str, int] = {}
        self._lock = threading.Lock()

    def reach(self, name: str, position: int) -> None:
        """Note that a file is through up to a position."""
        with self._lock:
            new = position - self._far.get(name, 0)
            if new > 0:
                self._far[name] = position
        if new > 0:
            self._progress(new)


class _Counted(io.BufferedReader):
    """A file that tells how far it has been read."""

    def __init__(self, path: Path, reach: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self._reach = reach

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._reach(self.tell())
        return data


def hash_all(pieces: Iterable[Piece]) -> None:
    """Compute the digests of all pieces, several at a time."""
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda piece: piece.sha256, pieces):
            pass


def operation(piece: Piece, meter: Meter) -> Any:
    """Give what huggingface_hub adds to a commit, with our count instead of its bar."""
    from huggingface_hub import CommitOperationAdd

    made: Any = CommitOperationAdd(piece.name, piece.content)
    made.upload_info.sha256 = bytes.fromhex(piece.sha256)  # or it would be computed once more
    path = piece.content
    if isinstance(path, Path):

        @contextmanager
        def as_file(with_tqdm: bool = False) -> Iterator[BinaryIO]:
            # Asked for a bar, it is being sent; else it is being hashed or looked at.
            count = meter.reach if with_tqdm else (lambda name, position: None)
            with _Counted(path, lambda position: count(piece.name, position)) as file:
                yield file

        made.as_file = as_file
    return made
