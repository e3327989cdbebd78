"""The only door to huggingface_hub, httpx and fsspec, which are imported when they are used.

    client   one HfApi with our name, time-outs, retries; `signed(token)`, `attempt`, `explain`
    repo     what a repository holds, one request: `resolve(ref) -> Repo`
    names    names from a listing that may become paths
    ranges   capped range reads
    peek     a folder with headers only: `hub.peek.peek(ref)`
    fetch    whole files, verified: `hub.fetch.fetch(ref)`; `local(ref, kind)` for every verb
    digests  what a file must hash to
    push     one atomic commit: `publish(repo, files, …)`
    find     adapters of a base: `adapters_of(base)`
    stores   the same for s3://, gs://, file://, memory:// … by fsspec

A function that has its module's name is called through the module: `hub.fetch.fetch(…)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptertools.hub import (
        client,
        digests,
        fetch,
        find,
        known,
        names,
        peek,
        push,
        ranges,
        repo,
        stores,
    )
    from adaptertools.hub._standing import standing
    from adaptertools.hub.client import api, attempt, signed
    from adaptertools.hub.faults import explain, status
    from adaptertools.hub.fetch import local
    from adaptertools.hub.names import hostile, safe_name
    from adaptertools.hub.repo import RemoteFile, Repo, resolve

# Public name -> module that has it.
_NAMES = {
    "RemoteFile": "repo",
    "Repo": "repo",
    "api": "client",
    "attempt": "client",
    "explain": "faults",
    "hostile": "names",
    "local": "fetch",
    "resolve": "repo",
    "safe_name": "names",
    "signed": "client",
    "standing": "_standing",
    "status": "faults",
}
_ROOMS = ("client", "digests", "fetch", "find", "known", "names", "peek", "push", "ranges", "repo",
          "stores")  # fmt: skip

__all__ = [
    "RemoteFile", "Repo", "api", "attempt", "client", "digests", "explain", "fetch", "find",
    "hostile", "known", "local", "names", "peek", "push", "ranges", "repo", "resolve", "safe_name",
    "signed", "standing", "status", "stores",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"adaptertools.hub.{_NAMES[name]}"), name)
    if name in _ROOMS:
        return import_module(f"adaptertools.hub.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
