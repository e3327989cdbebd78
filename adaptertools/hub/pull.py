"""One file of a repository: from the cache or the Hub, verified, fetched again once if damaged."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.errors import HubError, shown
from adaptertools.hub import client, digests
from adaptertools.hub.memory import Memory
from adaptertools.hub.meter import Bar, Meter
from adaptertools.hub.pulls import Got

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from adaptertools.hub.repo import RemoteFile

_CUT = "Consistency check failed"  # huggingface_hub's words for a body of the wrong length


@dataclass
class Puller:
    """Fetches files of one commit, into the cache or a folder; safe to use from several threads."""

    repo: str
    commit: str
    memory: Memory
    staging: Path | None = None  # where files of a local copy are put together
    stop: threading.Event = field(default_factory=threading.Event)
    api: HfApi = field(default_factory=client.api)
    _came: list[tuple[Path, RemoteFile]] = field(default_factory=list)

    def cached(self, name: str) -> Path | None:
        """Give a file's path in the cache; None where it is not there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def get(self, file: RemoteFile, advance: Callable[[int], None]) -> Got:
        """Bring one file here and check it.

        Raises HubError where it arrives damaged twice, or what `attempt` raises; nothing damaged
        is left then.
        """
        meter = Meter(file.size or 0, advance, self.stop)
        path, how = self.cached(file.name), "cached"
        if path is None:
            path, how = self._download(file, meter), "fetched"
        sha256, why = self._check(path, file)
        if why:
            self._remove(path)
            if client.offline():
                raise self._damaged(file, why, "was removed from the cache, and HF_HUB_OFFLINE "
                                    "forbids to fetch it again")  # fmt: skip
            path, how = self._download(file, meter), "repaired"
            sha256, why = self._check(path, file)
        if why or path is None:
            self._remove(path)
            raise self._damaged(file, why, "arrived so twice and was removed. Try again later: "
                                "the server damages it, or something on the way")  # fmt: skip
        checked = digests.expected(path, file) != ("", "")
        if self.staging and self.staging not in path.parents:
            path = client.attempt(partial(self._copy, path, file.name), self._what(file))
        if how != "cached":
            meter.reach(meter.size)
        if checked:
            self._came.append((path, file))
        return Got(path, sha256, how, checked)

    def settle(self) -> None:
        """Look at all once more: the cache keeps files as one where the server gives them one ETag.

        Raises HubError where one has changed since it was checked.
        """
        for path, file in self._came:
            if why := self._check(path, file)[1]:
                self._remove(path)
                raise self._damaged(file, why, "was whole until another took its place: this "
                                    "server gives several files one ETag. --local-dir keeps them "
                                    "apart")  # fmt: skip

    def _download(self, file: RemoteFile, meter: Meter) -> Path | None:
        """Fetch a file; None where what came has not the length that the server promised."""
        bar: Any = partial(Bar, meter=meter)

        def call() -> Path | None:
            try:
                return Path(
                    self.api.hf_hub_download(
                        self.repo, file.name, revision=self.commit, local_dir=self.staging,
                        tqdm_class=bar,
                    )
                )  # fmt: skip
            except OSError as error:
                if _CUT in str(error):
                    return None
                raise

        return client.attempt(call, self._what(file))

    def _check(self, path: Path | None, file: RemoteFile) -> tuple[str, str]:
        """Give a file's sha256 and what is wrong with it."""
        if path is None:
            return "", "it has not the length that the server promised"
        digest = ":".join(digests.expected(path, file))
        if known := self.memory.recall(path, digest):
            return known, ""
        sha256, why = digests.measure(path, file)
        if not why and digest != ":":
            self.memory.keep(path, digest, sha256)
        return sha256, why

    def _remove(self, path: Path | None) -> None:
        """Remove a damaged file: the snapshot's link, the blob, and the blob that others share."""
        from huggingface_hub import constants

        homes = [Path(constants.HF_HUB_CACHE).resolve(), *filter(None, [self.staging])]
        while path is not None and path.is_symlink() | path.exists():
            target = path.parent / os.readlink(path) if path.is_symlink() else None
            where = path.parent.resolve()
            if not any(home == where or home in where.parents for home in homes):
                return  # a link out of the cache, which somebody made by hand
            client.attempt(partial(path.unlink, missing_ok=True), shown(path))
            path = target

    def _copy(self, path: Path, name: str) -> Path:
        assert self.staging
        target = self.staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return target

    def _what(self, file: RemoteFile) -> str:
        return f"{shown(file.name)} of {shown(self.repo)}"

    def _damaged(self, file: RemoteFile, why: str, then: str) -> HubError:
        return HubError(f"{self._what(file)} is damaged ({why}). It {then}.")
