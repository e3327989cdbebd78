"""What a person types to name a thing: a path, `user/repo`, a link from a browser, `s3://…`.

./folder, ~/folder, file:///folder          what exists on disk is a path, whatever its look
user/repo[@revision][/subfolder]            the Hub; a slash in a revision is typed %2F,
hf://[models/]user/repo[@revision][/sub]    except in refs/pr/N and refs/convert/NAME
https://huggingface.co/user/repo[/tree/revision[/sub]]     also hf.co and HF_ENDPOINT's own
s3://bucket/folder, gs:// az:// memory://   stores that fsspec opens
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adaptertools.errors import NotFound, shown

# Other schemes of fsspec reach into archives, chains and shells; an adapter lies in a folder.
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory")
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_KINDS = {
    "datasets": "a dataset",
    "spaces": "a space",
    "kernels": "a kernel",
    "buckets": "a bucket",
}
_PAGES = ("tree", "blob", "raw", "resolve", "blame")  # all but the first show a file
_NAME = r"\b[\w.-]{1,96}\b"
_REPO = re.compile(rf"(?!.*(?:--|\.\.|\.git$))(?:{_NAME}/)?{_NAME}", re.ASCII)
_REVISION = re.compile(
    r"(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)(?=/|$)|[^/]+)(?:/(?P<sub>.+))?"
)
_NO_REVISION = re.compile(r"\.\.|@\{|[\s~^:?*\[\\]|^[/.-]|[/.]$|//")  # what git refuses


@dataclass(frozen=True, slots=True)
class Ref:
    """A local folder, a repository on the Hub with revision and subfolder, or a store's address."""

    text: str
    path: Path | None = None
    repo: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    url: str | None = None  # of a store; a file:// address has its path too

    @property
    def bare(self) -> bool:
        """Whether a folder that is missing here may have been meant by this repository's name."""
        return self.text.rstrip("/") == "/".join(filter(None, (self.repo, self.subfolder)))


def parse(text: str | Path, *, disk: bool = True) -> Ref:
    """Read a reference; what exists on disk is a path, everything else must look like a name.

    With `disk=False` folders here are not looked for: the text names a place elsewhere.
    Raises NotFound where it is nothing of this, without saying a password in it.
    """
    if isinstance(text, Path):
        return Ref(str(text), path=text)
    scheme, sep, rest = text.partition("://")
    if not text.isprintable() or not text:
        raise _neither(text)
    if sep and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return _address(text, scheme.lower(), rest)
    path = _path(text) if disk else None
    if path is not None:
        return Ref(text, path=path)
    if text.split("/")[0] in _HOSTS:
        return _page(text, f"https://{text}")
    return _repository(text, text)


def _path(text: str) -> Path | None:
    """Give the path that a text means: one that exists, or one that no repository could be."""
    try:
        path = Path(text).expanduser()
        if path.exists():
            return path
    except (RuntimeError, ValueError, OSError):  # no such home, a name too long
        return None
    return path if text.startswith((".", "/", "~")) or "\\" in text else None


def _address(text: str, scheme: str, rest: str) -> Ref:
    if re.match(r"[^/@]*:(?!\d+(?:/|$)).*@", rest):  # not a port
        raise NotFound(
            f"A {scheme}:// address with a password in it is not taken, since it would be shown. "
            "Set the password where the store's driver looks for it."
        )
    if scheme == "hf":
        kind, _, name = rest.partition("/")
        if kind in _KINDS:
            raise _not_a_model(text, kind)
        return _repository(text, name if kind == "models" else rest, spaced=True)
    if scheme in ("http", "https"):
        return _page(text, text)
    parts = rest.rstrip("/").split("/")
    if scheme in ("file", "local") and rest.startswith("/") and ".." not in parts:
        path = Path(unquote(rest) if "%" in rest and not Path(rest).exists() else rest)
        return Ref(text, path=path, url=f"file://{path}")
    if scheme not in STORES:
        raise NotFound(
            f"{shown(text)!r}: {scheme}:// is no store that adaptertools opens. "
            f"Known: hf, https, file, {', '.join(STORES)}."
        )
    if not _clean(parts[1:] if scheme == "memory" and not parts[0] else parts):
        raise _neither(text)
    return Ref(text, url=f"{scheme}://{'/'.join(parts)}")


def _page(text: str, url: str) -> Ref:
    """Read a link to a page of the Hub, its query and fragment left out."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _neither(text) from None
    own = urlsplit(os.environ.get("HF_ENDPOINT", ""))
    path = parts.path
    if own.netloc and parts.netloc.lower() == own.netloc.lower():
        path = path.removeprefix(own.path.rstrip("/"))
    elif parts.netloc.lower() not in _HOSTS:
        raise NotFound(
            f"{shown(text)!r} is no page of the Hub. Download the adapter and give its folder, "
            "or give user/repo."
        )
    names = [unquote(name).replace("/", "%2F") for name in path.split("/") if name]
    if names and names[0] in _KINDS:
        raise _not_a_model(text, names[0])
    names = names[1:] if names and names[0] == "models" else names
    page, where = (names[2:3] or ["tree"])[0], names[3:]
    if len(names) < 2 or page not in _PAGES:
        raise NotFound(
            f"{shown(text)!r} is a page of the Hub, and not a repository's. "
            "Give user/repo, or the link to its files."
        )
    where = where if page == "tree" else where[:-1]
    return _repository(text, "/".join(names[:2]) + "@" * bool(where) + "/".join(where), spaced=True)


def _repository(text: str, name: str, *, spaced: bool = False) -> Ref:
    """Take `user/repo@revision/sub` apart; `spaced` demands the user, as addresses do."""
    name = name.strip("/") if spaced else name.rstrip("/")
    repo, at, rest = name.partition("@")
    if repo.count("/") > 1:  # an @ further on belongs to a file's name
        user, own, sub = name.split("/", 2)
        repo, revision = f"{user}/{own}", None
    else:
        match = _REVISION.fullmatch(rest)
        revision = unquote(match["revision"]) if match else None
        sub = (match["sub"] or "") if match else ""
        if at and (revision is None or _NO_REVISION.search(revision)):
            raise _neither(text)
    right = _REPO.fullmatch(repo) and (_clean(sub.split("/")) if sub else True)
    if not right or (spaced and "/" not in repo) or not (revision or "").isprintable():
        raise _neither(text)
    return Ref(text, repo=repo, revision=revision, subfolder=sub or None)


def _clean(names: list[str]) -> bool:
    """Tell whether every name stays in its folder."""
    return all(name not in ("", ".", "..") and "\\" not in name for name in names)


def _neither(text: str) -> NotFound:
    return NotFound(
        f"{shown(text)!r} is neither a folder nor a repository name. Give a path, user/repo, "
        "user/repo@revision/subfolder, a link to a repository, or a store's address (s3://…)."
    )


def _not_a_model(text: str, kind: str) -> NotFound:
    return NotFound(
        f"{shown(text)!r} is {_KINDS[kind]}. Adapters and models lie in model repositories: "
        "give user/repo."
    )
