"""Is a file what the Hub says it is? Its size and digest, from its bytes alone.

Large files go by their sha256; small ones by git's sha1 of the blob; and a listing from the cache
knows a large file by the blob of its LFS pointer only, which sha256 and size rebuild.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptertools.hub.repo import RemoteFile

_BLOCK = 1 << 20
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def sha256(path: Path) -> str:
    """Give the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1(path: Path) -> str:
    """Give the name that git has for a file's content."""
    return _both(path)[1]


def pointer_sha1(sha256: str, size: int) -> str:
    """Give the name that git has for the pointer to a file in LFS."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return str(_git(len(text), text.encode()).hexdigest())


def expected(path: Path, remote: RemoteFile | None = None) -> tuple[str, str]:
    """Say what a file must hash to: ("sha256" or "git", digest), or ("", "") where nobody knows.

    The Hub's listing says it; where it does not, the name of the blob in the cache, to which a
    snapshot's file is a link.
    """
    told = (remote.sha256, remote.blob) if remote else (None, None)
    for digest in (*told, blob_name(path)):
        if digest and _SHA256.fullmatch(digest):
            return "sha256", digest
        if digest and _SHA1.fullmatch(digest):
            return "git", digest
    return "", ""


def blob_name(path: Path) -> str:
    """Give the name of the blob that a snapshot's file links to; empty where it is no link."""
    try:
        # Once, not to the end: a blob can itself be a link, to a store that all repositories share.
        return os.path.basename(os.readlink(path))
    except (OSError, ValueError):
        return ""


def check(path: Path, remote: RemoteFile | None = None) -> str:
    """Say what is wrong with a file; empty where it is what the Hub says, as far as it says it."""
    return measure(path, remote)[1]


def measure(path: Path, remote: RemoteFile | None = None) -> tuple[str, str]:
    """Give the sha256 of a file, and what is wrong with it; empty where nothing is."""
    try:
        size = path.stat().st_size
        if remote and remote.size is not None and size != remote.size:
            return "", f"it has {size} bytes, {remote.size} were expected"
        kind, digest = expected(path, remote)
        if kind == "git":
            found, blob = _both(path)
            good = digest in (blob, pointer_sha1(found, size))
        else:
            found = blob = sha256(path)
            good = not digest or found == digest
    except FileNotFoundError:
        return "", "it is not there"
    if good:
        return found, ""
    return found, f"its {'git sha1' if kind == 'git' else kind} is {blob}, {digest} was expected"


def _both(path: Path) -> tuple[str, str]:
    """Give sha256 and git's sha1, reading once."""
    with path.open("rb") as file:
        plain, blob = hashlib.sha256(), _git(os.fstat(file.fileno()).st_size)
        while block := file.read(_BLOCK):
            plain.update(block)
            blob.update(block)
    return plain.hexdigest(), blob.hexdigest()


def _git(size: int, data: bytes = b"") -> Any:
    return hashlib.sha1(b"blob %d\0" % size + data, usedforsecurity=False)
