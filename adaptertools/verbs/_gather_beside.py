"""The facts beside config and weights: base, card, tokenizer, serving target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptertools import checkpoint, hub, serving
from adaptertools.errors import AdapterToolsError, NotFound, shown
from adaptertools.facts import Base, Card, File, Profile

CARD = "README.md"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json",
              "special_tokens_map.json", "vocab.json")  # fmt: skip
# What PyYAML raises for tags on values that they do not fit: !!int "", !!bool x, !!timestamp x.
_BY_TAGS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
_FRONT, _DEEPEST = 64_000, 32  # front matter: letters, and levels; PyYAML is slow with both
_LARGEST = 12_000_000  # bytes: hostile JSON takes twenty times its size in memory


def base(ref: str | Path | None, why: dict[str, str]) -> Base | None:
    """Open the base that was given: its config, and headers where it has safetensors."""
    if ref is None:
        why["base"] = "no base (pass --base)"
        return None
    folder = hub.local(ref, "base")
    try:
        held = checkpoint.read(folder, str(ref))
    except AdapterToolsError:
        if not (folder / "config.json").is_file():
            raise
        # Weights that are missing or pickled: its config still says what it is.
        config = checkpoint.read_json(folder / "config.json")
        return Base(ref=str(ref), config=config)
    return Base(ref=str(ref), config=held.config, tensors=held.tensors)


def card(files: Mapping[str, File], why: dict[str, str]) -> Card | None:
    """Read README.md: its front matter by a safe loader, without aliases."""
    if CARD not in files:
        why["card"] = f"no {CARD}"
        return None
    text = files[CARD].read(1_000_000).decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.removeprefix("\ufeff").splitlines()]
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return Card(meta=None, fault="", body=text)
    end = lines.index("---", 1)
    meta, fault = _front("\n".join(lines[1:end]))
    return Card(meta=meta, fault=fault, body="\n".join(lines[end + 1 :]))


def _front(text: str) -> tuple[dict[str, Any] | None, str]:
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
    found = {}
    for name in _TOKENIZER:
        if name in files and files[name].size <= _LARGEST:
            try:
                found[name] = json.loads(files[name].read(_LARGEST))
            except (ValueError, RecursionError):
                found[name] = None
    if not found:
        why["tokenizer"] = "no tokenizer files"
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
