"""One file of a store, whole: as it was fetched before or from the store, and verified."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools.errors import HubError, shown
from adaptertools.hub import digests, memory, stores
from adaptertools.hub.meter import Meter
from adaptertools.hub.names import safe_name
from adaptertools.hub.pulls import Got
from adaptertools.hub.store_door import explained, opened, ticking

if TYPE_CHECKING:
    from adaptertools.hub.repo import RemoteFile, Repo


class StorePuller:
    """Fetches files of a store as they were listed, as `pull.Puller` does those of a commit."""

    def __init__(self, repo: Repo, staging: Path | None = None) -> None:
        key = hashlib.sha256(repo.id.encode()).hexdigest()[:24]
        self.repo = repo
        self.memory = memory.of(f"store/{key}")
        self.stop = threading.Event()
        self._keeps = staging is None
        self._home = staging or memory.folder() / "stores" / key / repo.commit
        self._files, self._root = opened(repo.id)

    def cached(self, name: str) -> Path | None:
        """Give a file's path where it was fetched before; None where it was not."""
        path = self._home / safe_name(name)
        return path if self._keeps and path.is_file() else None

    def get(self, file: RemoteFile, advance: Callable[[int], None]) -> Got:
        """Bring one file here and check it: its size, and its digest where the receipt says it.

        Raises HubError where it arrives damaged twice, NotFound and HubError as the store's driver
        fails; nothing damaged is left then.
        """
        path, checked = self.cached(file.name), file.sha256 is not None
        if path and (sha256 := self._sound(path, file)):
            return Got(path, sha256, "cached", checked)
        meter = Meter(file.size or 0, advance, self.stop)
        for how in ("repaired" if path else "fetched", "repaired"):
            sha256, why = self._download(file, meter)
            if not why:
                meter.reach(meter.size)
                return Got(self._home / file.name, sha256, how, checked)
        raise HubError(
            f"{shown(self.repo.id)}/{shown(file.name)} is damaged, or was changed after "
            f"{stores.RECEIPT} was written ({why}). Nothing of it was kept. Upload it again."
        )

    def settle(self) -> None:
        """Make sure that nobody wrote to the store meanwhile; raise HubError where one did."""
        if stores.listing(self.repo.id).commit != self.repo.commit:
            raise HubError(
                f"{shown(self.repo.id)} was written to while it was read, so its files may not "
                "belong together. Start again."
            )

    def _sound(self, path: Path, file: RemoteFile) -> str:
        """Give the sha256 of a file that was fetched before; empty where it is damaged."""
        known = self.memory.recall(path, file.sha256) if file.sha256 else ""
        sha256, why = (known, "") if known else digests.measure(path, file)
        return "" if why else sha256

    def _download(self, file: RemoteFile, meter: Meter) -> tuple[str, str]:
        """Fetch a file; give its sha256 and what is wrong. Only a sound one gets its name."""
        target = self._home / safe_name(file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.partial")
        done = 0

        def count(more: int) -> None:
            nonlocal done
            if self.stop.is_set():
                # No KeyboardInterrupt: it would end the thread that all of fsspec waits for.
                raise HubError(f"{shown(self.repo.id)}: stopped.")
            done += more
            meter.reach(done)

        try:
            with explained(f"{self.repo.id}/{file.name}"):
                source = f"{self._root}/{file.name}"
                self._files.get_file(source, str(part), callback=ticking(count))
            sha256, why = digests.measure(part, file)
            if not why:
                os.replace(part, target)
                self.memory.keep(target, file.sha256 or "", sha256)
        finally:
            part.unlink(missing_ok=True)
        return sha256, why
