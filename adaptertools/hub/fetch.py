"""Whole files of an adapter or a base, each verified: into the cache, or into a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adaptertools.errors import HubError, NotFound, shown
from adaptertools.hub import bring, into, known, memory, receipt
from adaptertools.hub.choose import choose
from adaptertools.hub.pulls import Advance, Fetched, Progress, Pull
from adaptertools.hub.repo import Repo, is_commit, resolve
from adaptertools.ref import Ref, parse


@contextmanager
def _silent(total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda count: None


_progress: Progress = _silent


def announce(progress: Progress | None) -> None:
    """Set what shows the transfers of `local`, which a verb starts in the middle of its work."""
    global _progress
    _progress = progress or _silent


def fetch(
    ref: Ref, *, kind: str = "adapter", include: Sequence[str] = (), exclude: Sequence[str] = (),
    local_dir: Path | None = None, force: bool = False, progress: Progress | None = None,
) -> Fetched:  # fmt: skip
    """Fetch what an adapter needs, verify every file, repair it once; see `plan` and `run`."""
    how = plan(ref, kind=kind, include=include, exclude=exclude, local_dir=local_dir, force=force)
    return run(how, progress)


def plan(
    ref: Ref, *, kind: str = "adapter", include: Sequence[str] = (), exclude: Sequence[str] = (),
    local_dir: Path | None = None, force: bool = False,
) -> Pull:  # fmt: skip
    """Say what would be fetched, and what not and why; nothing is written.

    `kind` decides what is needed: "adapter", or anything else for a model.

    Raises NotFound and HubError as `resolve` and `choose` do, Unsafe where `local_dir` holds
    edited files or another adapter and `force` is not set.
    """
    repo = _listing(ref)
    files, left = choose(repo, ref, kind, include, exclude)
    if local_dir is None:
        puller = bring.puller(ref, repo)
        here = frozenset(name for name, file in files.items() if puller.cached(file.name))
        return Pull(ref=ref, repo=repo, files=files, there=here, left_out=left)
    mine = (receipt.RECEIPT, into.STAGING, ".cache")
    taken = {name for name in files if name.split("/")[0] in mine}
    left |= dict.fromkeys(taken, "its name is taken by what adaptertools or `hf` keep there")
    files = {name: file for name, file in files.items() if name not in taken}
    folder = into.survey(local_dir, files, ref, repo.commit, force)
    there = frozenset(folder.there)
    return Pull(ref=ref, repo=repo, files=files, there=there, left_out=left, into=folder)


def run(pull: Pull, progress: Progress | None = None) -> Fetched:
    """Do what was planned.

    Raises HubError where the Hub or the disk fails, or a file arrives damaged twice; no damaged or
    partial file has its name then.
    """
    _check_space(pull)
    with (progress or _silent)(pull.nbytes) as advance:
        return bring.to_folder(pull, advance) if pull.into else bring.to_cache(pull, advance)


def local(ref: str | Path | Ref, kind: str) -> Path:
    """Give the folder of an adapter or a base, fetching it from the Hub where it is not on disk.

    Every file is verified when it comes, and when it has changed in the cache since. Raises
    NotFound where there is no such folder or repository, HubError where the Hub refuses.
    """
    ref = ref if isinstance(ref, Ref) else parse(ref)
    if ref.path is None:
        try:
            return fetch(ref, kind=kind, progress=_progress).folder
        except NotFound as error:
            if ref.bare:
                error.add_note(f"There is no folder {shown(ref.text)} here either.")
            raise
    if not ref.path.exists():
        raise NotFound(f"{shown(ref.path)}: no such folder. The {kind} was expected here.")
    if not ref.path.is_dir():
        raise NotFound(
            f"{shown(ref.path)} is a file; the {kind} was expected in a folder. "
            "Give the folder that holds it."
        )
    return ref.path


def _listing(ref: Ref) -> Repo:
    """List what a reference names; a commit that is known never changes, and needs no request."""
    if ref.url:
        from adaptertools.hub import stores

        return stores.listing(ref.url)
    found = known.recall(str(ref.repo), ref.revision) if is_commit(ref.revision) else None
    scanned = found and all(file.status != "queued" for file in found.files.values())
    return found if found and scanned else resolve(ref)


def _check_space(pull: Pull) -> None:
    """Refuse what cannot fit before it is fetched."""
    place = (pull.into.path if pull.into else memory.cache()).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if pull.nbytes > free:
        raise HubError(
            f"{shown(pull.ref.text)}: {pull.nbytes} bytes are to come, and {shown(place)} has "
            f"{free} left. Free some, or choose another place."
        )
