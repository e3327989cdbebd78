"""What a person types to name a thing: a path, `user/repo`, `user/repo@rev`, `hf://user/repo@rev/sub`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adaptertools.errors import NotFound, shown

_REPO = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?(?P<sub>)")
_HF = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<sub>.+))?")


@dataclass(frozen=True, slots=True)
class Ref:
    """A local folder, or a repository on the Hub with revision and subfolder."""

    text: str
    path: Path | None = None
    repo: str | None = None
    revision: str | None = None
    subfolder: str | None = None


def parse(text: str | Path) -> Ref:
    """Read a reference; what exists on disk is a path, everything else must look like a repository.

    Raises NotFound where it is neither.
    """
    if isinstance(text, Path):
        return Ref(str(text), path=text)
    if text.startswith("hf://"):
        match = _HF.fullmatch(text)
    else:
        path = _path(text)
        if path is not None:
            return Ref(text, path=path)
        match = _REPO.fullmatch(text)
    if match is None or ".." in text:
        raise NotFound(
            f"{shown(text)!r} is neither a folder nor a repository name. "
            "Give a path, user/repo, user/repo@revision or hf://user/repo@revision/subfolder."
        )
    return Ref(text, repo=match["repo"], revision=match["revision"], subfolder=match["sub"] or None)


def _path(text: str) -> Path | None:
    """Give the path that a text means: one that exists, or one that no repository could be."""
    try:
        path = Path(text).expanduser()
        if text and path.exists():
            return path
    except (RuntimeError, ValueError, OSError):  # no such home, NUL in a name, a name too long
        return None
    local = text.startswith((".", "/", "~")) or (text.count("/") > 1 and "@" not in text)
    return path if local else None
