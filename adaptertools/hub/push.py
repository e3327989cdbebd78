"""Publish files as one commit: all of them or none, onto the commit that was seen, read back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptertools.errors import HubError, NotFound, Unsupported, first, shown
from adaptertools.hub import client, digests, repo
from adaptertools.hub.commit import CARD, Published, Push
from adaptertools.hub.pieces import Content, Meter, Piece, hash_all, operation
from adaptertools.hub.repo import Repo
from adaptertools.ref import Ref

BRANCH = "main"
_FIRST = {".gitattributes", CARD}  # what the Hub itself may put into a new repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an upload goes, as it stands; `repo` is None where there is none yet."""

    repo: Repo | None
    new_branch: bool = False  # it has no such branch: `repo` is what the branch will start from


def look(name: str, revision: str | None = None) -> Place:
    """Say what is at the place of an upload.

    Raises Unsupported where the revision is a commit, HubError where the Hub cannot be asked.
    """
    if client.offline():
        raise HubError(f"{shown(name)}: HF_HUB_OFFLINE forbids to reach the Hub. Unset it first.")
    if repo.is_commit(revision):
        raise Unsupported(
            f"--revision {shown(revision)} is a commit, which never changes. Give a branch."
        )
    try:
        return Place(repo=repo.resolve(Ref(name, repo=name, revision=revision)))
    except NotFound:
        if revision is None:
            return Place(repo=None)
    found = look(name).repo
    return Place(repo=found, new_branch=revision != BRANCH)


def read_card(name: str, found: Repo) -> str | None:
    """Read the card of a repository; None where it has none.

    Raises HubError where it cannot be had as the Hub lists it.
    """
    if CARD not in found.files:
        return None
    path = Path(
        client.attempt(
            lambda: client.api().hf_hub_download(name, CARD, revision=found.commit),
            f"{CARD} of {name}",
        )
    )
    if wrong := digests.check(path, found.files[CARD]):
        raise HubError(
            f"{CARD} of {shown(name)} came damaged: {wrong}. Try again, with a {CARD} of your own, "
            "or after `hf cache prune`."
        )
    return path.read_bytes().decode("utf-8", errors="replace")


def publish(
    name: str, files: Mapping[str, Content | Piece], *, delete: Sequence[str] = (), message: str,
    revision: str | None = None, create_pr: bool = False, private: bool = False,
    parent: str | None = None, new_branch: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Published:  # fmt: skip
    """Send files as one commit, and read back what the Hub then holds.

    Args:
        name: user/repo; it is made where `parent` is None, private where that is asked for.
        files: name in the repository -> a local file, what is in it, or a piece, which remembers
            its digests.
        delete: names to take away in the same commit.
        message: the commit's.
        revision: the branch; the main one where it is None.
        create_pr: open a pull request instead of changing the branch.
        parent: the commit that was seen when this was planned. Where the branch is at another now,
            nothing is changed.
        new_branch: the branch is not there; it starts at `parent`.
        progress: called with bytes sent, from several threads.

    Raises HubError where the Hub refuses, where somebody else was faster, and where what it holds
    afterwards is not what was sent; NotFound where the repository is gone.
    """
    meter = Meter(progress)
    pieces = {each: held if isinstance(held, Piece) else Piece(each, held)
              for each, held in sorted(files.items())}  # fmt: skip
    with _quiet():
        job = Push(
            name=name, pieces=pieces, delete=tuple(delete), message=message, revision=revision,
            parent=parent or _made(name, private), create_pr=create_pr,
        )  # fmt: skip
        made = _sent(job, meter, new_branch=new_branch)
    for piece in pieces.values():
        meter.reach(piece.name, piece.size)
    return made


def _sent(job: Push, meter: Meter, *, new_branch: bool) -> Published:
    """Judge the card, send the files, commit, and read back."""
    job.check_card()
    if new_branch and job.revision and not job.create_pr:
        job.branch(job.revision)
    if not job.pieces and not job.delete:
        return Published(commit=job.parent, url=job.page)
    hash_all(job.pieces.values())
    operations = [operation(piece, meter) for piece in job.pieces.values()]
    job.send(operations, meter)
    made = job.commit(operations)
    try:
        job.check(made)
    except HubError as error:
        error.add_note(f"The commit was made: {made.url}. Run the same command to mend it.")
        raise
    return made


def _made(name: str, private: bool) -> str:
    """Make the repository; give its first commit. Refuse one that somebody else filled."""
    client.attempt(
        lambda: client.api().create_repo(name, private=private or None, exist_ok=True), name
    )
    found = repo.resolve(Ref(name, repo=name))
    if others := sorted(found.files.keys() - _FIRST):
        raise HubError(
            f"{shown(name)} was not there a moment ago and holds {first(others)} now: somebody "
            "else has made it. Nothing was uploaded. Look at it, and run the command again."
        )
    return found.commit


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub's own bars and remarks off the terminal."""
    from huggingface_hub import utils

    before = utils.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utils.disable_progress_bars()
        try:
            yield
        finally:
            if not before:
                utils.enable_progress_bars()
