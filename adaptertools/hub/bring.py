"""Bring the files of a plan here, several at a time: into the cache, or into a folder as one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from adaptertools.errors import shown
from adaptertools.hub import client, into, memory, receipt
from adaptertools.hub.pull import Puller
from adaptertools.hub.pulls import Advance, Fetched, Got, Pull, Source
from adaptertools.hub.repo import RemoteFile, Repo, is_commit
from adaptertools.ref import Ref

_WORKERS = 4
_PATIENCE = 2.0  # seconds that transfers get to stop, before they are left to their time-outs


def puller(ref: Ref, repo: Repo, staging: Path | None = None) -> Source:
    """Give what fetches the files of a repository or a store."""
    if ref.url:
        from adaptertools.hub.store_pull import StorePuller

        return StorePuller(repo, staging)
    name = str(ref.repo)
    return Puller(name, repo.commit, memory.of(name), staging)


def to_cache(pull: Pull, advance: Advance) -> Fetched:
    """Bring files into the Hub's cache, whole and verified each; raise as `Puller.get` does."""
    got = _all(puller(pull.ref, pull.repo), pull.files, advance)
    _point(pull)
    name, one = next(iter(got.items()))
    return _fetched(pull, one.path.parents[name.count("/")], got)


def to_folder(pull: Pull, advance: Advance) -> Fetched:
    """Bring files into a folder: put together beside, and named only when all are whole.

    Raises as `Puller.get` does, or as the store.
    """
    folder = pull.into
    assert folder is not None
    existed = folder.path.exists()
    what = shown(folder.path)
    try:
        client.attempt(partial(folder.staging.mkdir, parents=True, exist_ok=True), what)
        missing = {name: file for name, file in pull.files.items() if name not in folder.there}
        got = _all(puller(pull.ref, pull.repo, folder.staging), missing, advance)
        done = _fetched(pull, folder.path, got)
        client.attempt(partial(_finish, pull, folder, got, done.files), what)
        return done
    finally:
        into.sweep(folder, existed)


def _finish(
    pull: Pull, folder: into.Folder, got: Mapping[str, Got], files: Mapping[str, str]
) -> None:
    """Give the files their names, and write the receipt."""
    into.place(folder, {name: one.path for name, one in got.items()})
    listed = [
        {"name": name, "size": (folder.path / name).stat().st_size, "sha256": sha256}
        for name, sha256 in files.items()
    ]
    source = {
        "ref": pull.ref.text, "repo": pull.ref.repo, "url": pull.ref.url,
        "commit": pull.repo.commit, "subfolder": pull.ref.subfolder,
    }  # fmt: skip
    receipt.write(folder.path, source, [*listed, *folder.carried])


def _all(source: Source, files: Mapping[str, RemoteFile], advance: Advance) -> dict[str, Got]:
    """Bring files here; the first failure stops all."""
    # The largest first, so that no thread is left alone with it at the end.
    todo = deque(sorted(files, key=lambda name: -(files[name].size or 0)))
    done: SimpleQueue[tuple[str, Got | BaseException]] = SimpleQueue()
    # Daemons: an executor would let Ctrl-C wait for a server that stalls.
    workers = [
        threading.Thread(target=_work, args=(source, files, advance, todo, done), daemon=True)
        for _ in range(min(_WORKERS, len(files)))
    ]
    for worker in workers:
        worker.start()
    try:
        came = dict(_got(*done.get()) for _ in files)
        source.settle()
        return {name: came[name] for name in files}
    finally:
        source.stop.set()
        end = time.monotonic() + _PATIENCE
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))
        source.memory.save()


def _work(
    source: Source, files: Mapping[str, RemoteFile], advance: Advance, todo: deque[str],
    done: SimpleQueue[tuple[str, Got | BaseException]],
) -> None:  # fmt: skip
    while not source.stop.is_set():
        try:
            name = todo.popleft()
        except IndexError:
            return
        try:
            done.put((name, source.get(files[name], advance)))
        except BaseException as error:
            done.put((name, error))
            return


def _got(name: str, found: Got | BaseException) -> tuple[str, Got]:
    if isinstance(found, BaseException):
        raise found
    return name, found


def _fetched(pull: Pull, folder: Path, got: Mapping[str, Got]) -> Fetched:
    there = pull.into.there if pull.into else {}
    return Fetched(
        folder=folder, repo=pull.repo, left_out=pull.left_out,
        files={name: there.get(name) or got[name].sha256 for name in pull.files},
        how={name: "there" if name in there else got[name].how for name in pull.files},
        unchecked=tuple(name for name, one in got.items() if not one.checked),
    )  # fmt: skip


def _point(pull: Pull) -> None:
    """Let the cache know which commit a branch is: tools that ask by its name need it offline.

    Only now: a commit that did not arrive whole must not take the place of one that did.
    """
    if pull.ref.repo is None or is_commit(pull.ref.revision) or client.offline():
        return
    folder = memory.cache() / f"models--{pull.ref.repo.replace('/', '--')}" / "refs"
    memory.write(folder / (pull.ref.revision or "main"), pull.repo.commit)
