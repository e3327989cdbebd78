"""Where an adapter lies, and its files: a folder here, or what is looked at of one elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import hub
from adaptertools.errors import NotFound, Unsupported, shown
from adaptertools.facts import File, Remote
from adaptertools.ref import Ref, parse
from adaptertools.tensorfile import TensorSpec

if TYPE_CHECKING:
    from adaptertools.hub.peek import Peek

CONFIG, CARD = "adapter_config.json", "README.md"
# Where the libraries that write an adapter_config.json put its tensors, PEFT's first.
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors",
           "pytorch_adapter.bin", "pytorch_lora_weights.safetensors")  # fmt: skip
_INDEX = "adapter_model.safetensors.index.json"
LARGEST_HEADER = 15_000_000  # bytes; 100,000 tensors take about as much
MOST, DEEPEST = 20_000, 8  # files and folders that are listed, and levels of folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder and what is in it; that of a repository which was only looked at holds pieces."""

    folder: Path
    files: Mapping[str, File]
    ref: Ref
    remote: Remote | None = None
    partly: bool = False  # weights are there as their listing only

    @property
    def label(self) -> str:
        """What messages call the folder."""
        return self.ref.text if self.partly else str(self.folder)

    def named(self, text: str) -> str:
        """Write a message about a file here as one about the repository's."""
        return text.replace(f"{shown(self.folder)}/", "") if self.partly else text


def aim(thing: str | Path, revision: str | None) -> Ref:
    """Read a reference, with the revision beside it that an option or argument says.

    Raises NotFound where it is none, Unsupported where two revisions are said, or one of a folder.
    """
    ref = parse(thing)
    if revision is None or revision == ref.revision:
        return ref
    if ref.repo is None:
        raise Unsupported(
            f"{shown(thing)} is no repository on the Hub, so it has no revision {shown(revision)}."
        )
    if ref.revision is not None:
        raise Unsupported(f"{shown(thing)} says another revision than {shown(revision)}. Say one.")
    return replace(ref, revision=revision)


def find(ref: Ref, *, deep: bool, card: bool = False) -> Place:
    """Look into a folder, or at a repository; `deep` fetches that whole, each file verified.

    Raises NotFound where there is none, HubError where the Hub fails.
    """
    if ref.path is not None:
        folder = hub.local(ref, "adapter")
        return Place(folder=folder, files=listed(folder), ref=ref)
    if deep:
        folder = hub.local(ref, "adapter")
        return Place(folder=folder, files=listed(folder), ref=ref, remote=_fetched(ref))
    looked = hub.peek.peek(ref)
    looked.want(_wanted(looked.files, card))
    files = _files(looked)
    unread = tuple(
        name for name, file in files.items() if file.kind == "remote" and name != ".gitattributes"
    )
    return Place(
        folder=looked.folder, files=files, ref=ref, remote=_remote(looked, unread), partly=True
    )


def away(tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Point tensors whose bytes were not fetched to no file, so that nobody reads others as them.

    Reading one raises FileNotFoundError.
    """
    return {
        name: TensorSpec(name, spec.dtype, spec.shape, f"{spec.file}.not-fetched", spec.start,
                         spec.stop)
        for name, spec in tensors.items()
    }  # fmt: skip


def listed(folder: Path) -> dict[str, File]:
    """List the files of a folder and its subfolders, following no link to a folder.

    Raises NotFound where it is no folder.
    """
    if not folder.is_dir():
        raise NotFound(f"{shown(folder)}: no such folder. An adapter's folder was expected.")
    found: dict[str, File] = {}
    todo = [("", folder, 0)]
    while todo and len(found) < MOST:
        prefix, place, level = todo.pop()
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if level < DEEPEST and entry.name != ".git":
                        todo.append((name + "/", Path(entry.path), level + 1))
                else:
                    found[name] = _file(name, Path(entry.path), folder)
    return dict(sorted(found.items()))


def _file(name: str, path: Path, folder: Path) -> File:
    status = path.lstat()
    kind = "file" if stat.S_ISREG(status.st_mode) else "other"
    if stat.S_ISLNK(status.st_mode):
        kind = "outside"
        target = Path(os.path.realpath(path))
        # A snapshot of the Hub's cache is links to blobs beside it.
        homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
        if target.is_file() and any(home in target.parents for home in homes):
            kind, status = "link", target.stat()
    return File(name=name, path=path, size=status.st_size, kind=kind)


def _wanted(names: Mapping[str, object], card: bool) -> Sequence[str]:
    weights = [name for name in WEIGHTS if name in names][:1]
    return [CONFIG, *([] if weights else [_INDEX]), *([CARD] if card else []), *weights]


def _files(looked: Peek) -> dict[str, File]:
    """List a repository's files; a name that must not become a path has none."""
    return {
        name: File(
            name=name, path=looked.folder if name in looked.hostile else looked.folder / name,
            size=file.size or 0, kind="file" if looked.here(name) else "remote",
            digest=file.sha256 or file.blob or "",
        )
        for name, file in sorted(looked.files.items())
    }  # fmt: skip


def _remote(looked: Peek, unread: tuple[str, ...]) -> Remote:
    repo = looked.repo
    return Remote(
        id=repo.id, commit=repo.commit, private=repo.private, gated=repo.gated, unread=unread,
        scan={name: file.status for name, file in looked.files.items() if file.status},
    )  # fmt: skip


def _fetched(ref: Ref) -> Remote | None:
    """Give the facts of a repository that was just fetched; asking for them again costs nothing."""
    repo = hub.known.recall(str(ref.repo), ref.revision) if ref.repo else None
    if repo is None:
        return None
    prefix = f"{ref.subfolder}/" if ref.subfolder else ""
    scan = {name.removeprefix(prefix): file.status for name, file in repo.files.items()
            if file.status and name.startswith(prefix)}  # fmt: skip
    return Remote(id=repo.id, commit=repo.commit, private=repo.private, gated=repo.gated, scan=scan)
