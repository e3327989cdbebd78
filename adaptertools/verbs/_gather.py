"""Gather what is known of an adapter's folder, trusting none of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptertools import dialect, jsontext, picklefile, tensorfile
from adaptertools.errors import AdapterToolsError, NotFound, shown
from adaptertools.facts import Data, Facts, File, Pickle, Remote, Weights
from adaptertools.verbs import _gather_beside as beside
from adaptertools.verbs._foreign import foreign
from adaptertools.verbs._gather_foreign import alone, with_foreign
from adaptertools.verbs._place import CONFIG as CONFIG
from adaptertools.verbs._place import DEEPEST as DEEPEST
from adaptertools.verbs._place import LARGEST_HEADER as LARGEST_HEADER
from adaptertools.verbs._place import Place, aim, away, find
from adaptertools.verbs._place import listed as listed

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def gather(
    thing: str | Path, *, base: str | Path | None = None, deep: bool = False,
    target: str | None = None, peft_version: str | None = None,
    online: Callable[[str], str] | None = None, revision: str | None = None,
) -> Facts:  # fmt: skip
    """Look at a folder and give the facts; damaged files are facts too.

    Of a repository only what lists its tensors is fetched, unless `deep`. Raises NotFound where
    there is no such folder or repository, HubError where the Hub fails, and what opening `base`
    raises.
    """
    why: dict[str, str] = {} if deep else {"data": "no tensor data (pass --deep)"}
    other = None if revision else foreign(thing, base)
    place = alone(other, thing) if other and Path(thing).is_file() else (
        find(aim(thing, revision), deep=deep, card=True)
    )  # fmt: skip
    folder, files = place.folder, place.files
    text = jsontext.read(files[CONFIG].read(jsontext.MAX_BYTES + 1)) if CONFIG in files else None
    kind = dialect.dialect(files[CONFIG].read(4096) if text else b"", text and text.value, files)
    config = text.value if text and kind == "peft" and isinstance(text.value, dict) else None
    pickles = [_pickle(file, place) for file in files.values() if file.name.endswith(_PICKLES)]
    weights = _weights(place, pickles, why)
    why["config"] = f"no config of PEFT's dialect ({kind})" if text else f"no {CONFIG}"
    why["text"] = f"no {CONFIG}"
    facts = Facts(
        folder=folder, ref=str(thing), files=files, dialect=kind if text else "none", text=text,
        config=config, weights=weights, pickles=tuple(pickles), peft_version=peft_version,
        data=Data(weights=weights) if weights and deep and _plain(weights, why) else None,
        base=beside.base(base, why), card=beside.card(files, why),
        tokenizer=beside.tokenizer(files, why), target=beside.profile(target, why),
        remote=place.remote, scan=_scan(place.remote, why), online=online,
        why=why | ({} if online else {"online": "no network (pass --online)"}),
    )  # fmt: skip
    return with_foreign(facts, other, deep=deep) if other and other.sure else facts


def _scan(remote: Remote | None, why: dict[str, str]) -> Mapping[str, str] | None:
    """Give what the hub's scan complains of; None where it says nothing yet."""
    if remote is None:
        why["scan"] = "no repository on the Hub"
    elif not remote.scan:
        why["scan"] = "its hub tells of no scan"
    elif remote.flagged or "queued" not in remote.scan.values():
        return remote.flagged
    else:
        why["scan"] = "the hub's scan is not done yet"
    return None


def _pickle(file: File, place: Place) -> Pickle:
    if file.kind == "remote":
        return Pickle(file=file.name, globals=(), refused="")
    if file.kind not in ("file", "link"):
        return Pickle(file=file.name, globals=(), refused="it is no plain file")
    listing = picklefile.read(file.path, partly=place.partly)
    return Pickle(
        file=file.name, globals=tuple(listing.globals), refused=listing.refused,
        tensors=away(listing.tensors) if place.partly else listing.tensors,
    )  # fmt: skip


def _weights(place: Place, pickles: list[Pickle], why: dict[str, str]) -> Weights | None:
    files = place.files
    if WEIGHTS in files:
        try:
            header = tensorfile.read_header(_readable(files[WEIGHTS]), LARGEST_HEADER)
        except AdapterToolsError as error:
            why["weights"] = str(error).replace(shown(files[WEIGHTS].path), WEIGHTS)
            return None
        tensors = away(header.tensors) if place.partly else header.tensors
        return Weights(file=WEIGHTS, tensors=tensors, metadata=header.metadata)
    pickled = next((p for p in pickles if p.file == PICKLED), None)
    if pickled and not pickled.refused:
        return Weights(file=PICKLED, tensors=pickled.tensors, pickled=True)
    why["weights"] = f"{PICKLED}: {pickled.refused}" if pickled else "no weights"
    return None


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
