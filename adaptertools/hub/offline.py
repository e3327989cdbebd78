"""What a repository held when it was last asked or fetched, from this machine alone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from adaptertools.errors import HubError, shown
from adaptertools.hub import digests, known
from adaptertools.hub.repo import MOST, RemoteFile, Repo, is_commit, named
from adaptertools.ref import Ref


def recall(ref: Ref) -> Repo:
    """Give a repository at the commit that is in the Hub's cache, else as it was last asked about.

    Raises HubError where nothing is known of it.
    """
    fetched = _fetched(ref)
    # The answer of the Hub says more of a commit than the files that were fetched of it.
    found = known.recall(str(ref.repo), fetched.commit if fetched else ref.revision) or fetched
    if found is None:
        raise absent(named(ref), ref)
    return found


def absent(what: str, ref: Ref) -> HubError:
    """Make the error for something that the cache does not have."""
    return HubError(
        f"{shown(what)} is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub for it. "
        f"Unset it, or run `adaptertools download {shown(named(ref))}` while there is a network."
    )


def _fetched(ref: Ref) -> Repo | None:
    """Read what the Hub's cache has, whoever fetched it."""
    from huggingface_hub import constants

    name = str(ref.repo)
    home = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    commit = ref.revision if is_commit(ref.revision) else _commit(home, ref.revision or "main")
    if not commit or not (home / "snapshots" / commit).is_dir():
        return None
    files = _listed(name, commit) or _lying(home / "snapshots" / commit)
    return Repo(id=name, commit=commit, files={file.name: file for file in files})


def _commit(home: Path, revision: str) -> str:
    with suppress(OSError, ValueError):
        said = (home / "refs" / revision).read_text("ascii").strip()
        return said if is_commit(said) else ""
    return ""


def _listed(name: str, commit: str) -> list[RemoteFile]:
    """Read the listing that huggingface_hub keeps of a commit, which names what is missing too."""
    try:
        from huggingface_hub import get_cached_repo_tree

        rows: list[Any] = get_cached_repo_tree(name, revision=commit)
    except Exception:  # no listing, a damaged one, or none before huggingface_hub 2.0
        return []
    return [
        RemoteFile(name=str(row.path), size=row.size, blob=row.blob_id,
                   sha256=getattr(row.lfs, "sha256", None))
        for row in rows[:MOST]
    ]  # fmt: skip


def _lying(snapshot: Path) -> list[RemoteFile]:
    """List a snapshot; what a file must hash to is the name of the blob that it links to."""
    found = []
    for path in sorted(snapshot.rglob("*"))[:MOST]:
        if path.is_file():
            kind, digest = digests.expected(path)
            found.append(
                RemoteFile(
                    name=path.relative_to(snapshot).as_posix(), size=path.stat().st_size,
                    sha256=digest if kind == "sha256" else None,
                    blob=digest if kind == "git" else None,
                )
            )  # fmt: skip
    return found
