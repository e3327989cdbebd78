"""What PEFT's configs are, from schemas/adapter_config: types, fields, since when they exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from typing import Any

from adaptertools import schema
from adaptertools.errors import shown
from adaptertools.schema import Difference

Config = Mapping[str, Any]
Version = tuple[int, ...]

MOST = 1000  # differences that are looked at; a hostile file has any number of them
# PEFT writes what it is called itself: 0.18.1, 0.19.0rc1, 0.18.2.dev0@UNKNOWN, 0.21.0+local
_VERSION = re.compile(r"(\d{1,6}(?:\.\d{1,6}){0,3})((?:a|b|rc|\.?dev|\.?post)\d{0,6})?([+@].*)?")


@dataclass(frozen=True, slots=True)
class Release:
    """A PEFT version that was parsed; an unfinished one is no point in time to compare with."""

    number: Version
    finished: bool


@dataclass(frozen=True, slots=True)
class Known:
    """A key that stands in a config and is known to some PEFT release."""

    pointer: str
    since: str
    until: str  # empty: still known
    default: bool  # it says what would be so without it


@cache
def types() -> tuple[str, ...]:
    """List every peft_type that there ever was."""
    return tuple(name.upper() for name in schema.names("adapter_config"))


def kind(config: Config) -> str:
    """Give the peft_type where it is a known one, nothing else where it is not."""
    found = config.get("peft_type")
    return found if isinstance(found, str) and found in types() else ""


def schema_of(peft_type: str) -> dict[str, Any]:
    """Give the schema of a known type."""
    return schema.load(f"adapter_config/{peft_type.lower()}")


def fields(config: Config) -> Config:
    """Give the fields of a config's type, with their rules; none for an unknown type."""
    found: Config = schema_of(kind(config))["properties"] if kind(config) else {}
    return found


@cache
def newest() -> str:
    """Give the newest PEFT release whose fields are known."""
    return str(schema.load("adapter_config")["x-newest"])


def release(version: object) -> Release | None:
    """Parse what a config or a user calls a PEFT version; None for what is none."""
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        return None
    numbers = tuple(map(int, match[1].split(".")))
    return Release(numbers, not (match[2] or "").lstrip(".").startswith(("a", "b", "rc", "dev")))


def number(version: str) -> Version:
    """Give a release of ours as numbers."""
    return tuple(map(int, version.split(".")))


def later(config: Config) -> bool:
    """Tell whether a config says that a PEFT wrote it which is newer than what is known here."""
    theirs = release(config.get("peft_version"))
    return theirs is not None and theirs.number > number(newest())


def said(config: Config, field: str) -> Any:
    """Give what a config says of a field, or what it means by not saying it."""
    if field in config:
        return config[field]
    return fields(config).get(field, {}).get("default")


def windows(config: Config) -> Iterator[Known]:
    """Give every known key of a config, nested ones too, and since when it is known."""
    if kind(config):
        whole = schema_of(kind(config))
        yield from _windows(config, whole, "", whole["x-since"])


def _windows(value: Config, part: Config, above: str, since: str) -> Iterator[Known]:
    for key, item in value.items():
        found = part["properties"].get(key)
        if found is not None:
            first = found.get("x-since", since)
            usual = "default" in found and found["default"] == item
            yield Known(f"{above}/{key}", first, found.get("x-until", ""), usual)
            if "properties" in found and isinstance(item, dict):
                yield from _windows(item, found, f"{above}/{key}", first)


def implied_minimum(config: Config) -> str:
    """Give the oldest PEFT release that knows every key; empty for a type that is not known."""
    return max((known.since for known in windows(config)), key=number, default="")


def differences(config: Config) -> tuple[Difference, ...]:
    """Give where a config differs from the schema of its type; nothing for unknown types."""
    return _differences(_Same(config))


@lru_cache(maxsize=1)  # three checks ask for the same config, one after the other
def _differences(same: _Same) -> tuple[Difference, ...]:
    if not kind(same.config):
        return ()
    found = schema.differences(schema_of(kind(same.config)), same.config)
    return tuple(islice(found, MOST))


class _Same:
    """A config that equals only itself, to be remembered by."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.config is other.config

    def __hash__(self) -> int:
        return id(self.config)


def inside(pointer: str, key: object) -> str:
    """Give the pointer to a member."""
    return f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"


def spoken(value: object) -> str:
    """Say a JSON value in a few words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f'"{shown(value, 80)}"'
    if isinstance(value, dict):
        return f"an object of {len(value)}" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return shown(value, 80)
