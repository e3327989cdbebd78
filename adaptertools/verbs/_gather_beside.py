"""The facts beside config and weights: base, card, tokenizer, serving target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from adaptertools import serving
from adaptertools.errors import AdapterToolsError, NotFound, shown
from adaptertools.facts import Base, Card, File, Profile
from adaptertools.jsoncost import cost
from adaptertools.layouts.roles import renamed
from adaptertools.verbs._base import Place, find

CARD = "README.md"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json",
              "special_tokens_map.json", "vocab.json")  # fmt: skip
# What PyYAML raises for tags on values that they do not fit: !!int "", !!bool x, !!timestamp x.
_BY_TAGS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
_FRONT, _DEEPEST = 64_000, 32  # front matter: letters, and levels; PyYAML is slow with both
_LARGEST, _MEMORY = 12_000_000, 200_000_000  # bytes of a tokenizer file, and of all once parsed


def base(ref: str | Path | None, why: dict[str, str]) -> Base | None:
    """Open the base that was given: its config, and headers where it has safetensors."""
    if ref is None:
        why["base"] = "no base (pass --base)"
        return None
    place = find(ref)
    return _opened(place, _stamp(place.folder))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Give what changes when a base does."""
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=1)  # many adapters have one base, and that has many shards
def _opened(place: Place, _: object) -> Base:
    try:
        held = place.read()
    except AdapterToolsError:
        if (config := place.config()) is None:
            raise
        # Weights that are missing or pickled: its config still says what it is.
        return Base(ref=place.ref, config=config)
    # Also by the names that the model gives them, which an adapter may use.
    more = {new: held.tensors[old] for old, new in renamed(held.config, held.tensors).items()}
    return Base(ref=place.ref, config=held.config, tensors={**held.tensors, **more})


def card(files: Mapping[str, File], why: dict[str, str]) -> Card | None:
    """Read README.md: its front matter by a safe loader, without aliases."""
    if CARD not in files or files[CARD].kind == "remote":
        why["card"] = f"no {CARD}"
        return None
    text = files[CARD].read(1_000_000).decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.removeprefix("\ufeff").splitlines()]
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return Card(meta=None, fault="", body=text)
    end = lines.index("---", 1)
    meta, fault = front("\n".join(lines[1:end]))
    return Card(meta=meta, fault=fault, body="\n".join(lines[end + 1 :]))


def front(text: str) -> tuple[dict[str, Any] | None, str]:
    """Read front matter; give its map, or None and what is wrong with it."""
    import yaml

    depth = 0
    if len(text) > _FRONT:
        return None, f"it has more than {_FRONT // 1000} kB"
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # by libyaml where there is one
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                return None, "it uses aliases, which can blow up"
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                return None, f"it is nested more than {_DEEPEST} deep"
        value = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError, *_BY_TAGS) as error:
        return None, shown(" ".join(str(error).split()) or type(error).__name__)
    if not isinstance(value, dict):
        return None, f"a map was expected, found {type(value).__name__}"
    return {str(key): item for key, item in value.items()}, ""


def tokenizer(files: Mapping[str, File], why: dict[str, str]) -> dict[str, Any] | None:
    """Read the tokenizer files that are JSON; None where there is none."""
    found, left = {}, _MEMORY
    for name in _TOKENIZER:
        if name in files and files[name].kind != "remote" and files[name].size <= _LARGEST:
            data = files[name].read(_LARGEST)
            left -= cost(data)
            try:
                found[name] = json.loads(data) if left > 0 else None
            except (ValueError, RecursionError):
                found[name] = None
    if not found:
        away = any(name in files for name in _TOKENIZER)
        why["tokenizer"] = "they were not fetched (pass --deep)" if away else "no tokenizer files"
    return found or None


def profile(name: str | None, why: dict[str, str]) -> Profile | None:
    """Find the serving target; raise NotFound with the list where there is none."""
    if name is None:
        why["target"] = "no serving target (pass --target)"
        return None
    known = serving.known()
    if name not in known:
        raise NotFound(f"--target {shown(name)} is unknown. Known: {', '.join(known)}.")
    return known[name]
