"""Look at a repository without fetching it: config and card, and of weights what lists tensors.

A peek is a folder that header-only readers take for a local one. Weights in it are as long as the
real ones and empty but for their listing: nobody may read tensors there. It is kept by commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from adaptertools import tensorheader
from adaptertools.errors import HubError, NotFound, Unreadable, first, shown
from adaptertools.hub import client, digests, known, offline, zipped
from adaptertools.hub.names import hostile, nearest
from adaptertools.hub.ranges import FilePieces, HubPieces, Pieces, StorePieces, forget
from adaptertools.hub.repo import RemoteFile, Repo, is_commit, named, resolve
from adaptertools.ref import Ref

HEAD = 16_384  # bytes that are fetched before the length of a header is known
LARGEST_HEADER = 15_000_000  # 100,000 tensors take about as much
LARGEST_TEXT = 5_000_001  # of a config or a card; an index of shards is larger
LARGEST_INDEX = 64_000_000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_WORKERS, _FEW = 8, 4  # headers of shards are fetched side by side, an adapter's files in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """What can be known of a repository, or a subfolder of it, without fetching it."""

    ref: Ref
    folder: Path  # where pieces of it lie
    repo: Repo
    files: Mapping[str, RemoteFile]  # of the subfolder, by their names in it
    hostile: Mapping[str, str]  # those of them that never become paths, and why
    pieces: Callable[[RemoteFile], Pieces]

    def here(self, name: str) -> bool:
        """Tell whether a file was fetched, or what lists the tensors in it."""
        return name not in self.hostile and name in self.files and (self.folder / name).is_file()

    def want(self, names: Iterable[str]) -> None:
        """Fetch texts whole, and of weights what lists their tensors; what is not there is left.

        Raises HubError where something cannot be had; HF_HUB_OFFLINE is a reason.
        """
        sound = [name for name in names if name in self.files and name not in self.hostile]
        missing = [n for n in sound if not self.here(n) or self._doubt(n).exists()]
        if len(missing) <= _FEW:
            for name in missing:
                self._fetch(name)
            return
        with ThreadPoolExecutor(_WORKERS) as pool:
            # The token in use is a context's, which threads do not inherit.
            jobs = [pool.submit(copy_context().run, self._fetch, name) for name in missing]
            try:
                for job in jobs:
                    job.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, name: str) -> None:
        """Fetch a file, or what lists its tensors; once more if that is not what it should be."""
        file, path = self.files[name], self.folder / name
        try:
            known.write(path, partial(self._fill, file, strict=True))
        except _Damaged:
            forget()  # where small files were found, in case the fault is there
            known.write(path, partial(self._fill, file, strict=False))
        if _sound(path):
            self._doubt(name).unlink(missing_ok=True)
        else:  # it may be so on the Hub, and its readers say what is wrong
            self._doubt(name).touch()

    def _doubt(self, name: str) -> Path:
        """Give the mark of a file that could not be read, and is fetched anew the next time."""
        return self.folder / f"{name}.doubtful"

    def _fill(self, file: RemoteFile, draft: Path, *, strict: bool) -> None:
        """Write what is fetched of a file, and hold it against what is known of it."""
        source = self.pieces(file)
        parts = _parts(source, file.name)
        with draft.open("wb") as made:
            made.truncate(source.size)
            for start, data in parts:
                made.seek(start)
                made.write(data)
        if any(len(data) == source.size for _, data in parts):
            if wrong := digests.check(draft, file):
                then = "tell who runs the server"
                if self.ref.url:  # its digests are those of the upload
                    then = "if somebody changed it in the store, upload the adapter again"
                raise _Damaged(
                    f"{shown(file.name)} of {shown(self.repo.id)} came damaged, and again when it "
                    f"was asked for again: {wrong}. Nothing of it was kept; {then}."
                )
        elif strict and not _sound(draft, file.name):
            raise _Damaged(f"{shown(file.name)} does not list its tensors.")


class _Damaged(HubError):
    """A file that is not what the repository lists, or a listing of tensors that makes none."""


def peek(ref: Ref) -> Peek:
    """Find out what a reference's repository holds, and give a place for what is looked at.

    One request; none for a whole commit id that was looked at before. Offline, what was looked at
    before answers.

    Raises NotFound where there is no such repository, revision or subfolder, HubError where the Hub
    cannot be reached, or nothing is known offline.
    """
    try:
        return _peek(ref)
    except NotFound as error:
        if ref.bare:
            error.add_note(f"There is no folder {shown(ref.text)} here either.")
        raise


def _peek(ref: Ref) -> Peek:
    repo, source = _source(ref)
    prefix = f"{ref.subfolder.strip('/')}/" if ref.subfolder else ""
    inside = {name.removeprefix(prefix): file
              for name, file in repo.files.items() if name.startswith(prefix)}  # fmt: skip
    if prefix and not inside:
        raise _no_folder(ref, repo)
    folder = known.place(repo.id, repo.commit) / "files" / prefix
    folder.mkdir(parents=True, exist_ok=True)
    return Peek(
        ref=ref, repo=repo, files=inside, hostile=hostile(inside), pieces=source, folder=folder
    )


def _source(ref: Ref) -> tuple[Repo, Callable[[RemoteFile], Pieces]]:
    if ref.url:
        from adaptertools.hub import stores

        return stores.listing(ref.url), partial(StorePieces, ref.url)
    repo = _repo(ref)
    return repo, partial(_pieces, ref, repo)


def _pieces(ref: Ref, repo: Repo, file: RemoteFile) -> Pieces:
    """Open a file where it is: in the Hub's cache, if it was fetched, else on the Hub."""
    from huggingface_hub import try_to_load_from_cache

    held = try_to_load_from_cache(repo.id, file.name, revision=repo.commit)
    if isinstance(held, str) and file.size in (None, Path(held).stat().st_size):
        return FilePieces(Path(held))
    if client.offline():
        raise offline.absent(f"{file.name} of {named(ref)}", ref)
    return HubPieces(repo, file)


def _repo(ref: Ref) -> Repo:
    here = client.offline()
    found = known.recall(str(ref.repo), ref.revision) if here or is_commit(ref.revision) else None
    if found and (here or not any(file.status == "queued" for file in found.files.values())):
        return found
    return resolve(ref)


def _no_folder(ref: Ref, repo: Repo) -> NotFound:
    folders = sorted({name.rpartition("/")[0] for name in repo.files if "/" in name})
    near = nearest(str(ref.subfolder), folders) or folders
    there = f"It has {first(near)}" if near else "It has no folders"
    where = named(replace(ref, subfolder=None))
    return NotFound(f"{shown(where)} has no folder {shown(ref.subfolder)}. {there}.")


def _parts(source: Pieces, name: str) -> list[zipped.Part]:
    if name.endswith(_PICKLES):
        return zipped.parts(source)
    if not name.endswith(".safetensors"):
        limit = LARGEST_INDEX if name.endswith(".index.json") else LARGEST_TEXT
        return [(0, source.read(0, limit))]
    head = source.read(0, HEAD)
    stop = 8 + int.from_bytes(head[:8], "little")
    if len(head) < stop <= min(source.size, 8 + LARGEST_HEADER):
        return [(0, head), (len(head), source.read(len(head), stop))]
    return [(0, head)]


def _sound(path: Path, name: str = "") -> bool:
    """Tell whether what lists the tensors does so; bytes of it that are wrong may not show."""
    name = name or path.name
    if name.endswith(_PICKLES):
        return zipped.sound(path)
    if not name.endswith(".safetensors"):
        return True
    try:
        tensorheader.read_header(path, LARGEST_HEADER)
    except Unreadable:
        return False
    return True
