"""The receipt of a merge as others may see it, and what it says the model is to its base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adaptertools.errors import NotFound
from adaptertools.ref import parse
from adaptertools.verbs._upload_base import on_hub

# A path from the root, a home or a drive, wherever it stands in a text; no part of an address.
_PATH = re.compile(
    r"(?<![\w/:.~-])(?:~|\.{1,2})?(?:/[^/\s'\"`,;:()]+)+/?|\b[A-Za-z]:[\\/][^\s'\"`,;()]+"
)
_CACHED = re.compile(r"models--(.+?)--(.+?)[\\/]snapshots[\\/][0-9a-f]+(?:[\\/](.*))?$")


def public(value: Any) -> Any:
    """Give a JSON value with every path reduced to a repository's name, or to its last part."""
    if isinstance(value, Mapping):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    return _whole(value) if isinstance(value, str) else value


def text(said: str) -> str:
    """Give a text with the paths in it reduced."""
    return _PATH.sub(lambda match: _last(match[0]), said)


def _whole(said: str) -> str:
    """Reduce a string that is a path as a whole, spaces and all, or the paths in it."""
    return _last(said) if re.match(r"(?:~|\.{0,2})/|[A-Za-z]:[\\/]", said) else text(said)


def _last(path: str) -> str:
    if cached := _CACHED.search(path):
        owner, name, file = cached.groups()
        return f"{owner}/{name}" + (f"/{file}" if file else "")
    return re.split(r"[\\/]", path.rstrip("/\\"))[-1] or "."


def receipt(held: Mapping[str, Any]) -> dict[str, Any]:
    """Give a merge's receipt without the places of the machine that merged.

    References to the Hub stay; a folder becomes its last name, also where the path is relative.
    """
    found: dict[str, Any] = public(held)
    for old, new in zip([held["base"], *held["adapters"]],
                        [found["base"], *found["adapters"]], strict=True):  # fmt: skip
        new["ref"] = reference(str(old["ref"]))
    return found


def reference(ref: str) -> str:
    """Give a reference as it may be published."""
    try:
        found = parse(ref)
    except NotFound:
        return _last(ref)
    return ref if found.repo and on_hub(found.repo) else _last(ref)


def base(held: Mapping[str, Any]) -> str:
    """Give the base that was merged into: a repository's name, or the path that was named."""
    ref = str(held["base"]["ref"])
    try:
        found = parse(ref)
    except NotFound:
        return ref
    named = found.repo if found.path is None else None
    if named is None and (cached := _CACHED.search(ref)):
        named = f"{cached[1]}/{cached[2]}"
    return named if named and on_hub(named) else ref


def relation(held: Mapping[str, Any]) -> tuple[str, str]:
    """Say what the model is to its base in the Hub's words, and why."""
    updated = [edit for edit in held["edits"] if edit["updates"] or edit["parts"]]
    moved = updated and any(adapter["scale"] for adapter in held["adapters"])
    packed = any(edit.get("packing", {}).get("to", "plain") != "plain" for edit in held["edits"])
    if packed and not moved:
        return "quantized", "the weights are the base's, packed in another way"
    if len(held["adapters"]) > 1:
        return "merge", f"{len(held['adapters'])} adapters were merged into the base"
    return "finetune", "one adapter, and so its training, is folded into the base"
