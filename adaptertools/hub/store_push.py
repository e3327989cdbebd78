"""Puts an adapter into a store, which cannot take several files at once.

Whoever looks meanwhile must not take half an adapter for a whole one. So the config that makes a
folder an adapter goes first where there is an old one, comes last, and the receipt after it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from adaptertools.errors import AdapterToolsError, HubError, shown
from adaptertools.hub import stores
from adaptertools.hub.commit import Published
from adaptertools.hub.names import safe_name
from adaptertools.hub.pieces import Content, Meter, Piece
from adaptertools.hub.store_door import explained, opened, ticking
from adaptertools.hub.stores import Entry
from adaptertools.version import VERSION

CONFIG = "adapter_config.json"
_SMALL = 1_000_000  # bytes; what is read back whole


def push(
    url: str,
    files: Mapping[str, Content],
    *,
    delete: Collection[str] = (),
    parent: str | None = None,
    source: str = "",
    progress: Callable[[int], object] | None = None,
) -> Published:
    """Write files into a folder of a store: adapter_config.json last, and a receipt after it.

    An upload that breaks off leaves a folder without a config, which nobody can take for an
    adapter; run it again. Afterwards all sizes are read back, and small files whole.

    Args:
        url: the folder.
        files: name in the folder -> a local file, or what is in it.
        delete: names to take away.
        parent: `Repo.commit` of what was seen when this was planned, to refuse where somebody
            wrote since; that is looked at first, and no lock.
        source: what the receipt says this came from.
        progress: called with bytes sent.

    Raises HubError where the store fails, refuses or shows something else than was written,
    Unsupported where its driver is not installed, Unsafe for a name that leaves the folder.
    """
    store, root = opened(url)
    pieces = {safe_name(name): Piece(name, files[name]) for name in sorted(files, key=_turn)}
    told = [{"name": n, "size": p.size, "sha256": p.sha256} for n, p in sorted(pieces.items())]
    body = {"verb": "upload", "version": VERSION, "source": source, "files": told}
    receipt = Piece(stores.RECEIPT, (json.dumps(body, indent=2) + "\n").encode())
    _check_parent(url, parent)
    with explained(url):
        there = _there(store, url, root)
    try:
        with explained(url):
            for name in dict.fromkeys((stores.RECEIPT, CONFIG, *delete)):
                if name in there and (name in (stores.RECEIPT, CONFIG) or name not in pieces):
                    store.rm_file(f"{root}/{name}")
            for piece in (*pieces.values(), receipt):
                _put(store, root, piece, None if piece is receipt else progress)
    except AdapterToolsError as error:
        error.add_note(f"{shown(url)} may hold no whole adapter now. Run the upload again.")
        raise
    with explained(url):
        _read_back(store, url, root, (*pieces.values(), receipt))
    return Published(commit=stores.listing(url).commit, url=url)


def _turn(name: str) -> tuple[bool, bool, str]:
    """Order names: configs after what they belong to, and the folder's own last."""
    return (name.endswith(f"/{CONFIG}") or name == CONFIG, name == CONFIG, name)


def _check_parent(url: str, parent: str | None) -> None:
    if parent is not None and getattr(stores.held(url), "commit", None) != parent:
        raise HubError(
            f"{shown(url)} was written to since it was looked at. Nothing was uploaded. Look at "
            "it, and run the command again."
        )


def _there(store: Any, url: str, root: str) -> dict[str, Entry]:
    try:
        return {entry.name: entry for entry in stores.entries(store, root, url)}
    except FileNotFoundError:
        return {}


def _put(store: Any, root: str, piece: Piece, progress: Callable[[int], object] | None) -> None:
    target = f"{root}/{piece.name}"
    local = "file" in _protocols(store)
    if local or "memory" in _protocols(store):
        store.makedirs(target.rpartition("/")[0], exist_ok=True)  # others would make buckets
    # A file of a store appears when it is whole; one on disk must be made to.
    part = f"{target}.incomplete" if local else target
    meter, done = Meter(progress), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        meter.reach(piece.name, min(done, piece.size))

    if isinstance(piece.content, Path):
        store.put_file(str(piece.content), part, callback=ticking(count))
    else:
        store.pipe_file(part, piece.content)
    if local:
        os.replace(part, target)
    meter.reach(piece.name, piece.size)  # some drivers tell nothing


def _protocols(store: Any) -> tuple[str, ...]:
    named = store.protocol
    return (named,) if isinstance(named, str) else tuple(named)


def _read_back(store: Any, url: str, root: str, pieces: Collection[Piece]) -> None:
    there = _there(store, url, root)
    for piece in pieces:
        found = there[piece.name].size if piece.name in there else None
        same = found == piece.size
        if same and piece.size <= _SMALL:
            data = store.cat_file(f"{root}/{piece.name}")
            same = hashlib.sha256(data).hexdigest() == piece.sha256
        if not same:
            other = "other bytes" if found == piece.size else f"{found} bytes"
            raise HubError(
                f"{shown(url)}/{shown(piece.name)} was written and reads otherwise: "
                f"{'nothing' if found is None else other}, {piece.size} bytes were written. "
                "Run the upload again."
            )
