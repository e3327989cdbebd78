"""Gather what is known of an adapter's folder, trusting none of it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptertools import dialect, hub, jsontext, picklefile, tensorfile
from adaptertools.errors import AdapterToolsError, NotFound, Unreadable, shown
from adaptertools.facts import Data, Facts, File, Pickle, Weights
from adaptertools.verbs import _gather_beside as beside

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MOST, DEEPEST = 20_000, 8  # files and folders that are listed, and levels of folders
LARGEST_HEADER = 15_000_000  # bytes; 100,000 tensors take about as much
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def gather(
    thing: str | Path, *, base: str | Path | None = None, deep: bool = False,
    target: str | None = None, peft_version: str | None = None,
    online: Callable[[str], str] | None = None,
) -> Facts:  # fmt: skip
    """Look at a folder and give the facts; damaged files are facts too.

    Raises NotFound where there is no such folder, and what opening `base` raises.
    """
    folder = hub.local(thing, "adapter")
    why: dict[str, str] = {} if deep else {"data": "no tensor data (pass --deep)"}
    files = listed(folder)
    text = jsontext.read(files[CONFIG].read(jsontext.MAX_BYTES + 1)) if CONFIG in files else None
    kind = dialect.dialect(files[CONFIG].read(4096) if text else b"", text and text.value, files)
    config = text.value if text and kind == "peft" and isinstance(text.value, dict) else None
    pickles = [_pickle(file) for file in files.values() if file.name.endswith(_PICKLES)]
    weights = _weights(files, pickles, why)
    why["config"] = f"no config of PEFT's dialect ({kind})" if text else f"no {CONFIG}"
    why["text"] = f"no {CONFIG}"
    return Facts(
        folder=folder, ref=str(thing), files=files, dialect=kind if text else "none", text=text,
        config=config, weights=weights, pickles=tuple(pickles), peft_version=peft_version,
        data=Data(weights=weights) if weights and deep and _plain(weights, why) else None,
        base=beside.base(base, why), card=beside.card(files, why),
        tokenizer=beside.tokenizer(files, why), target=beside.profile(target, why),
        online=online, why=why | ({} if online else {"online": "no network (pass --online)"}),
    )  # fmt: skip


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


def _pickle(file: File) -> Pickle:
    if file.kind not in ("file", "link"):
        return Pickle(file=file.name, globals=(), refused="it is no plain file")
    listing = picklefile.read(file.path)
    return Pickle(
        file=file.name, globals=tuple(listing.globals), refused=listing.refused,
        tensors=listing.tensors,
    )  # fmt: skip


def _weights(
    files: Mapping[str, File], pickles: list[Pickle], why: dict[str, str]
) -> Weights | None:
    if WEIGHTS in files:
        try:
            _check_header(files[WEIGHTS])
            header = tensorfile.read_header(_readable(files[WEIGHTS]))
        except AdapterToolsError as error:
            why["weights"] = str(error).replace(shown(files[WEIGHTS].path), WEIGHTS)
            return None
        return Weights(file=WEIGHTS, tensors=header.tensors, metadata=header.metadata)
    pickled = next((p for p in pickles if p.file == PICKLED), None)
    if pickled and not pickled.refused:
        return Weights(file=PICKLED, tensors=pickled.tensors, pickled=True)
    why["weights"] = f"{PICKLED}: {pickled.refused}" if pickled else "no weights"
    return None


def _check_header(file: File) -> None:
    """Refuse a header that no adapter needs before it is parsed."""
    length = int.from_bytes(file.read(8), "little")
    if LARGEST_HEADER < length < file.size:
        raise Unreadable(
            f"{file.name} has a header of {length} bytes, and {LARGEST_HEADER} are enough for any "
            "adapter. It was not read."
        )


def _readable(file: File) -> Path:
    if file.kind not in ("file", "link"):
        raise NotFound(f"{shown(file.name)} is a link that leaves its folder, or no plain file.")
    return file.path


def _plain(weights: Weights, why: dict[str, str]) -> bool:
    """Tell whether tensor data can be read by range."""
    if all(spec.start >= 0 for spec in weights.tensors.values()):
        return True
    why["data"] = f"{weights.file} holds tensors that do not lie in one piece"
    return False


def load_json(data: bytes) -> Any:
    """Read JSON that nobody needs positions of; None where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
