"""A local copy: what lies in its folder already, and how what was fetched gets its names there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools.errors import AdapterToolsError, Unsafe, first, shown
from adaptertools.hub import digests, memory, receipt
from adaptertools.hub.kinds import CONFIG
from adaptertools.hub.names import hostile
from adaptertools.hub.repo import RemoteFile
from adaptertools.ref import Ref

STAGING = memory.PASSING


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds of what is to be there."""

    path: Path
    there: Mapping[str, str]  # name -> sha256 of files that are right already
    carried: tuple[Mapping[str, Any], ...]  # of the receipt: of this commit, and not asked for now
    stale: tuple[str, ...]  # of an older commit, unedited, and no part of this one

    @property
    def staging(self) -> Path:
        """Where files are put together before they get their names."""
        return self.path.resolve() / STAGING


def survey(
    path: Path, files: Mapping[str, RemoteFile], ref: Ref, commit: str, force: bool
) -> Folder:
    """Look at a folder before anything is fetched into it.

    Raises Unsafe where it holds another adapter, files that somebody edited, or links that lead
    out of it, and `force` is not set.
    """
    if path.exists() and not path.is_dir():
        raise Unsafe(f"{shown(path)} is a file. Give --local-dir a folder.")
    old = _old(path, force)
    _check_same(path, old, ref, force)
    before = {str(file["name"]): file for file in old.get("files", ())}
    same = old.get("source", {}).get("commit") == commit
    there, edited = {}, []
    for name, file in files.items():
        target = _target(path, name)
        if not os.path.lexists(target):
            continue
        if _odd(target):
            edited.append(name)
            continue
        sha256, why = digests.measure(target, file)
        sha256 = sha256 or digests.sha256(target)
        ours = name in before and sha256 == before[name]["sha256"]
        if not why and (digests.expected(target, file)[0] or (ours and same)):
            there[name] = sha256
        elif not ours:
            edited.append(name)
    if edited and not force:
        raise Unsafe(
            f"{shown(path)}: {first(edited)} {'is' if len(edited) == 1 else 'are'} there, and not "
            "as it was downloaded. --force overwrites what was edited; or choose another "
            "--local-dir."
        )
    rest = [file for name, file in before.items() if name not in files and _unedited(path, file)]
    stale = () if same else tuple(str(file["name"]) for file in rest)
    return Folder(path, there, tuple(rest) if same else (), stale)


def place(folder: Folder, staged: Mapping[str, Path]) -> None:
    """Give files that are whole their names, the config last, and take away what is stale."""
    for name in sorted(staged, key=lambda name: (name == CONFIG, name)):
        target = _target(folder.path, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged[name].open("rb") as file:
            os.fsync(file.fileno())
        os.replace(staged[name], target)
    for name in folder.stale:
        (folder.path / name).unlink(missing_ok=True)


def sweep(folder: Folder, existed: bool) -> None:
    """Take away what was not finished; and the folder itself, if it is new and empty."""
    shutil.rmtree(folder.staging, ignore_errors=True)
    if not existed and folder.path.is_dir() and not any(folder.path.iterdir()):
        folder.path.rmdir()


def _old(path: Path, force: bool) -> dict[str, Any]:
    if not receipt.there(path):
        return {}
    try:
        return receipt.read(path)
    except AdapterToolsError:
        if force:
            return {}
        raise


def _check_same(path: Path, old: Mapping[str, Any], ref: Ref, force: bool) -> None:
    """Refuse to put two adapters into one folder."""
    source = old.get("source", {})
    place = source.get("url") or source.get("repo")
    asked = (ref.url or ref.repo, ref.subfolder)
    if place and (place, source.get("subfolder")) != asked and not force:
        raise Unsafe(
            f"{shown(path)} holds what was downloaded from {shown(place)}, and would become a "
            f"mixture with {shown(ref.text)}. Choose another --local-dir."
        )


def _target(path: Path, name: str) -> Path:
    """Give where a file goes; raise Unsafe where a link would carry it out of the folder."""
    target = path / name
    home = path.resolve()
    if target.parent.resolve() != home and home not in target.parent.resolve().parents:
        raise Unsafe(
            f"{shown(target.parent)} is a link that leaves {shown(path)}. Remove it, or choose "
            "another --local-dir."
        )
    return target


def _odd(target: Path) -> bool:
    return target.is_symlink() or not target.is_file()


def _unedited(path: Path, file: Mapping[str, Any]) -> bool:
    if hostile([file["name"]]):
        return False
    target = _target(path, file["name"])
    return not _odd(target) and digests.sha256(target) == file["sha256"]
