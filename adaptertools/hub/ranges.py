"""Pieces of remote files: never more than was asked for, whatever the server sends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from adaptertools.errors import HubError, shown
from adaptertools.hub import client
from adaptertools.hub.repo import RemoteFile, Repo

SKIPPED = 1_000_000  # bytes that are passed over to reach a piece, where a server ignores Range
# Folder of a commit -> where the server sends those who ask for small files of it: saves a request.
_MOVED: dict[str, str] = {}
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Pieces(Protocol):
    """One remote file."""

    size: int

    def read(self, start: int, stop: int) -> bytes:
        """Fetch the bytes from start to stop; raise HubError where they cannot be had exactly."""
        ...


class HubPieces:
    """One file of a repository on the Hub, at one commit."""

    def __init__(self, repo: Repo, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_url

        if file.size is None:
            raise HubError(f"{shown(file.name)} of {repo.id}: the server tells no size of it.")
        self.size = file.size
        self._what = f"{file.name} of {repo.id}"
        self._home = hf_hub_url(repo.id, file.name, revision=repo.commit)
        self._at = self._home  # where it was found; large files lie on another server
        self._name = "" if file.sha256 else f"/{file.name}"
        if self._name and self._home.endswith(self._name):  # what one small file taught
            folder = self._home.removesuffix(self._name)
            self._at = _MOVED.get(folder, folder) + self._name

    def read(self, start: int, stop: int) -> bytes:
        """Fetch a piece. An answer that is not that piece is asked for once more."""
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        try:
            return client.attempt(lambda: self._fetch(start, stop), self._what)
        except _Odd:
            self._at = self._home
        try:
            return client.attempt(lambda: self._fetch(start, stop), self._what)
        except _Odd as error:
            raise HubError(
                f"{shown(self._what)}: {error}, twice. Fetch it whole: `adaptertools download`."
            ) from None

    def _fetch(self, start: int, stop: int) -> bytes:
        from huggingface_hub.utils import hf_raise_for_status

        ours = urlsplit(self._at)[:2] == urlsplit(self._home)[:2]
        sent = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        with client.session().stream(
            "GET", self._at, headers={**(client.headers() if ours else {}), **sent},
            follow_redirects=True,
        ) as answer:  # fmt: skip
            if answer.status_code >= 400:
                expired, self._at = self._at != self._home, self._home
                if expired:  # signed addresses are good for some minutes
                    return self._fetch(start, stop)
                hf_raise_for_status(answer)
            self._at = str(answer.url)
            if self._name and self._home.endswith(self._name) and self._at.endswith(self._name):
                _MOVED[self._home.removesuffix(self._name)] = self._at.removesuffix(self._name)
            return self._piece(answer, start, stop)

    def _piece(self, answer: Any, start: int, stop: int) -> bytes:
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise _Odd("the server compresses what was to come as it is")
        skip = start
        if answer.status_code == 206:
            self._check(answer.headers.get("content-range", ""), start, stop)
            skip = 0
        elif answer.status_code != 200:
            raise _Odd(f"the server answers {answer.status_code}")
        elif start > SKIPPED:
            raise HubError(
                f"{shown(self._what)}: the server sends whole files only, and byte {start} of it "
                "is wanted. Fetch it whole: `adaptertools download`."
            )
        elif answer.headers.get("content-length", str(self.size)) != str(self.size):
            raise _Odd(f"the server sends {shown(answer.headers['content-length'])} bytes, and the "
                       f"listing says {self.size}")  # fmt: skip
        found = bytearray()
        for part in answer.iter_raw():
            found += part
            if len(found) >= skip + stop - start:
                break  # leaving the stream closes the connection: the rest is not fetched
        piece = bytes(found[skip : skip + stop - start])
        if len(piece) < stop - start:
            raise _Odd(f"{stop - start} bytes from {start} were asked for, {len(piece)} came")
        return piece

    def _check(self, told: str, start: int, stop: int) -> None:
        match = _RANGE.fullmatch(told)
        if not match or (int(match[1]), int(match[2])) != (start, stop - 1):
            raise _Odd(f"bytes {start}-{stop - 1} were asked for, and {shown(told)!r} came")
        if match[3] not in ("*", str(self.size)):
            raise _Odd(f"the server has {match[3]} bytes of it, and the listing says {self.size}")


def forget() -> None:
    """Ask at the front door again: what lies where small files were sent to is not what it was."""
    _MOVED.clear()


class FilePieces:
    """One file that is here already."""

    def __init__(self, path: Path) -> None:
        self.size = path.stat().st_size
        self._path = path

    def read(self, start: int, stop: int) -> bytes:
        """Read a piece."""
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(max(0, stop - start))


class StorePieces:
    """One file of a folder in a store."""

    def __init__(self, url: str, file: RemoteFile) -> None:
        self.size = file.size or 0
        self._url, self._name = url, file.name

    def read(self, start: int, stop: int) -> bytes:
        """Fetch a piece."""
        from adaptertools.hub import stores

        stop = min(stop, self.size)
        return stores.read(self._url, self._name, start, stop) if start < stop else b""


class _Odd(HubError):
    """An answer that is not what was asked for."""
