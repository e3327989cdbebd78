"""A store in memory that fails when it is told to, as fsspec's drivers fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from adaptertools.hub import stores
from adaptertools.hub.pull import Got
from adaptertools.hub.repo import Repo
from adaptertools.hub.store_pull import StorePuller

CONFIG = "adapter_config.json"
OLD = {CONFIG: b'{"r": 1}', "adapter_model.safetensors": b"old" * 999, "notes.txt": b"old"}
NEW = {CONFIG: b'{"r": 2}', "adapter_model.safetensors": b"new" * 9999, "README.md": b"# new"}


class Flaky(MemoryFileSystem):
    """Counts what changes it, and fails at the one that `fail_at` names."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 -- as in the class above: one for all instances
    pseudo_dirs = [""]  # noqa: RUF012
    fail_at = -1
    error: Exception = OSError("the store is on fire")
    writes = 0
    short = 0  # bytes that reads lack
    flips = 0  # reads that give other bytes
    lose = ""  # a name that is never stored
    garble = ""  # a name that is stored with other bytes
    after_reading: Any = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("flaky://", "memory://"))

    @classmethod
    def heal(cls) -> None:
        cls.fail_at, cls.writes, cls.short, cls.flips = -1, 0, 0, 0
        cls.lose = cls.garble = ""
        cls.after_reading, cls.error = None, OSError("the store is on fire")

    @classmethod
    def empty(cls) -> None:
        cls.heal()
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]

    @classmethod
    def count(cls) -> None:
        cls.writes += 1
        if cls.writes - 1 == cls.fail_at:
            raise cls.error

    def rm_file(self, path: str) -> None:
        self.count()
        super()._rm(path)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self.count()
        if not self.lose or not rpath.endswith(self.lose):
            super().put_file(lpath, rpath, **options)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self.count()
        garbled = self.garble and path.endswith(self.garble)
        super().pipe_file(path, value[::-1] if garbled else value, **options)

    def cat_file(self, path: str, **options: Any) -> bytes:
        data: bytes = super().cat_file(path, **options)
        return data[: len(data) - self.short]

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        super().get_file(rpath, lpath, **options)
        with open(lpath, "r+b") as file:
            if self.short:
                file.truncate(max(0, file.seek(0, 2) - self.short))
            if self.flips:
                type(self).flips -= 1
                byte = file.read(1)
                file.seek(0)
                file.write(bytes([byte[0] ^ 1]))
        if self.after_reading:
            self.after_reading()


@contextmanager
def clean() -> Iterator[None]:
    """Register the store, and leave nothing in it."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.empty()
    yield
    Flaky.empty()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def held(url: str) -> dict[str, bytes]:
    """Read a folder of a store by fsspec's own means."""
    files, root = fsspec.url_to_fs(url)
    found = files.cat(files.find(root)) if files.exists(root) else {}
    return {name.rpartition(root.strip("/") + "/")[2]: data for name, data in found.items()}


def as_paths(files: dict[str, bytes], folder: Path) -> dict[str, Path | bytes]:
    """Give some files as paths and some as bytes, as uploads have them."""
    made: dict[str, Path | bytes] = dict(files)
    for name in [name for name in files if name.endswith("s")]:
        made[name] = folder / name
        (folder / name).write_bytes(files[name])
    return made


def pull(
    url: str, folder: Path | None, files: Iterable[str], repo: Repo | None = None
) -> list[Got]:
    """Fetch files as `download` does."""
    repo = repo or stores.listing(url)
    puller = StorePuller(repo, folder)
    got = [puller.get(repo.files[name], lambda count: None) for name in files]
    puller.settle()
    puller.memory.save()
    return got
