"""What a repository holds: commit, files with sizes and digests, card, standing. One request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from adaptertools.errors import HubError, NotFound, first, shown
from adaptertools.hub import client
from adaptertools.hub.names import nearest
from adaptertools.ref import Ref

MOST = 20_000  # files of a repository that are listed
FINE = ("", "safe", "queued", "unscanned")  # what a scan may say of a file that nobody minds
_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file as the listing has it."""

    name: str
    size: int | None = None
    sha256: str | None = None  # of a file in LFS
    blob: str | None = None  # git's sha1 of a small file, or of the pointer to a large one
    status: str = ""  # the Hub's scan: safe, unsafe, suspicious, queued; empty where it says none


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """A repository at one commit."""

    id: str
    commit: str
    files: Mapping[str, RemoteFile]
    card: Mapping[str, Any] | None = None  # the card's front matter, as the Hub read it
    tags: tuple[str, ...] = ()
    private: bool = False
    gated: bool = False
    library: str = ""
    unsafe: tuple[str, ...] = field(default=())  # files that the Hub's scan complains about


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a whole commit id, which never means anything else."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def named(ref: Ref) -> str:
    """Write what a reference asks for, as it can be typed."""
    revision = ref.revision or ""
    if not revision.startswith("refs/"):
        revision = revision.replace("/", "%2F")
    inner = f"/{ref.subfolder}" if ref.subfolder else ""
    return f"{ref.repo or ref.url}{'@' if revision else ''}{revision}{inner}"


def resolve(ref: Ref) -> Repo:
    """Ask what a repository holds, and which commit its revision is; offline, the cache answers.

    Raises NotFound where there is no such repository or revision, with the nearest names, and
    HubError where the Hub cannot be reached or refuses, or nothing is known offline.
    """
    from adaptertools.hub import known, offline

    if client.offline():
        return offline.recall(ref)
    name = str(ref.repo)
    try:
        info = client.attempt(
            lambda: client.api().model_info(
                name, revision=ref.revision, files_metadata=True, securityStatus=True,
                timeout=client.TIMEOUT,
            ),
            named(ref),
        )  # fmt: skip
    except NotFound as error:
        raise _advised(error, ref) from error.__cause__
    if not is_commit(info.sha):
        raise HubError(f"{shown(named(ref))}: the server does not say which commit this is.")
    if not _ID.fullmatch(str(info.id)):
        raise HubError(
            f"{shown(named(ref))}: the server calls it {shown(info.id)}, which is no name."
        )
    repo = _repo(info, ref)
    known.remember(repo, name, ref.revision)
    return repo


def _repo(info: Any, ref: Ref) -> Repo:
    issues, scanned = _issues(info.security_repo_status)
    rows = [_row(each, issues, scanned) for each in islice(info.siblings or (), MOST)]
    if any(row.size is None for row in rows):
        rows = [_row(each, issues, scanned) for each in _tree(str(info.id), info.sha, named(ref))]
    card = info.card_data.to_dict() if info.card_data is not None else None
    return Repo(
        id=str(info.id), commit=info.sha, files={row.name: row for row in rows}, card=card,
        tags=tuple(map(str, info.tags or ())), private=bool(info.private), gated=bool(info.gated),
        library=str(info.library_name or ""), unsafe=tuple(issues),
    )  # fmt: skip


def _tree(repo: str, commit: str, what: str) -> list[Any]:
    """List with sizes, where the first answer has none; mirrors leave them out."""
    from huggingface_hub.hf_api import RepoFile

    rows = client.attempt(
        lambda: list(
            islice(client.api().list_repo_tree(repo, recursive=True, revision=commit), 2 * MOST)
        ),
        what,
    )
    return [row for row in rows if isinstance(row, RepoFile)][:MOST]


def _row(row: Any, issues: Mapping[str, str], scanned: bool | None) -> RemoteFile:
    name, lfs = str(getattr(row, "rfilename", None) or row.path), row.lfs
    size = row.size if isinstance(row.size, int) else getattr(lfs, "size", None)
    quiet = "" if scanned is None else "safe" if scanned else "queued"
    return RemoteFile(
        name=name, size=size, blob=row.blob_id, sha256=getattr(lfs, "sha256", None),
        status=issues.get(name, quiet),
    )  # fmt: skip


def _issues(told: Any) -> tuple[dict[str, str], bool | None]:
    """Read the scan: file -> what it says, and whether it is done; its shape is not promised."""
    if not isinstance(told, Mapping):
        return {}, None
    done, rows = told.get("scansDone"), told.get("filesWithIssues")
    found = {}
    for row in rows if isinstance(rows, Iterable) and not isinstance(rows, str | bytes) else ():
        if isinstance(row, str):
            row = {"path": row}
        if isinstance(row, Mapping) and (path := row.get("path") or row.get("file")):
            found[str(path)] = str(row.get("level") or row.get("status") or "unsafe")
    return found, done if isinstance(done, bool) else None


def _advised(error: NotFound, ref: Ref) -> NotFound:
    """Add the nearest names to an error, as far as the Hub tells them."""
    name = str(ref.repo)
    try:
        if ref.revision and (known := _revisions(name)):
            near = nearest(ref.revision, known) or known
            return NotFound(
                f"{shown(name)} has no revision {shown(ref.revision)}. It has {first(near)}."
            )
        if kind := _other_kind(name):
            return NotFound(f"{shown(name)} is a {kind} on the Hub, and no model or adapter.")
        near = _near(name)
    except Exception:  # advice is a courtesy; the error stands without it
        return error
    return NotFound(f"{error} Near it: {first(near)}.") if near else error


def _near(name: str) -> list[str]:
    """Give the owner's repositories that look most like a name, or those that the Hub finds."""
    owner, _, own = name.rpartition("/")
    # Not by list_models, which would try again and again for half a minute.
    answer = client.session().get(
        f"{client.api().endpoint}/api/models", headers=client.headers(), timeout=client.TIMEOUT,
        params={"author": owner, "limit": 500} if owner else {"search": own, "limit": 100},
    )  # fmt: skip
    ids = {str(row["id"]).rpartition("/")[2]: str(row["id"]) for row in answer.json()}
    return [ids[each] for each in nearest(own, ids)]


def _revisions(repo: str) -> list[str] | None:
    """List branches and tags; None where there is no such repository."""
    try:
        refs = client.api().list_repo_refs(repo)
    except Exception:
        return None
    return [str(each.name) for each in (*refs.branches, *refs.tags)]


def _other_kind(repo: str) -> str:
    for kind in ("dataset", "space"):
        try:
            client.api().repo_info(repo, repo_type=kind, timeout=client.TIMEOUT)
        except Exception:
            continue
        return kind
    return ""
