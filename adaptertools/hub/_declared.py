"""What a repository declares of itself, as the Hub's list tells it or its own files do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from adaptertools.errors import NotFound
from adaptertools.hub import repo
from adaptertools.hub.names import hostile
from adaptertools.ref import Ref, parse

CONFIG = "adapter_config.json"
LARGEST = 1_000_000  # bytes of a config that are read
_TAGS = ("base_model:adapter:", "base_model:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A repository's word for what it is; None where it was not asked."""

    id: str
    files: tuple[str, ...] | None
    peft: Mapping[str, Any] | None  # its adapter_config.json, or what the Hub keeps of it
    card_bases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def named(self) -> str:
        """The base that the config names."""
        return _text((self.peft or {}).get("base_model_name_or_path"))

    @property
    def method(self) -> str:
        """The method that the config names."""
        return _text((self.peft or {}).get("peft_type"))

    @property
    def bases(self) -> tuple[str, ...]:
        """Every base that it names."""
        return tuple(filter(None, (self.named, *self.card_bases)))

    @property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter's config."""
        return self.peft is not None or any(map(_is_config, self.files or ()))

    @property
    def subfolder(self) -> str:
        """Where the adapter lies; empty at the root."""
        found = sorted(
            filter(_is_config, self.files or ()), key=lambda name: (name.count("/"), name)
        )
        return found[0].removesuffix(CONFIG).rstrip("/") if found else ""

    @property
    def enough(self) -> bool:
        """Whether it can be judged: no files that could be an adapter's, or a base to compare."""
        if self.files is None and self.peft is None:
            return False
        return bool(self.bases) or not self.is_adapter


def read(info: Any) -> Declared | None:
    """Read an entry of the Hub's list; None where its name is none."""
    name = _text(info.id)
    try:
        if parse(name, disk=False).repo != name:
            return None
    except NotFound:
        return None
    config = info.config if isinstance(info.config, Mapping) else {}
    peft = config.get("peft")
    siblings = info.siblings
    card = info.card_data.to_dict() if info.card_data is not None else {}
    return Declared(
        id=name, files=None if siblings is None else _safe(each.rfilename for each in siblings),
        peft=peft if isinstance(peft, Mapping) else None, card_bases=_bases(card, info.tags),
        tags=tuple(map(str, info.tags or ())), figures=_figures(info, card),
    )  # fmt: skip


def ask(declared: Declared) -> Declared:
    """Ask the repository for its files, its card and, where that names no base, its config."""
    ref = Ref(declared.id, repo=declared.id)
    held = repo.resolve(ref)
    found = replace(
        declared, files=_safe(held.files), tags=held.tags,
        card_bases=_bases(held.card or {}, held.tags),
    )  # fmt: skip
    if found.enough:
        return found
    where = f"{found.subfolder}/{CONFIG}".lstrip("/")
    return replace(found, peft=_config(held, where))


def _config(held: repo.Repo, name: str) -> Mapping[str, Any]:
    from adaptertools.hub.ranges import HubPieces

    try:
        value = json.loads(HubPieces(held, held.files[name]).read(0, LARGEST))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _safe(names: Any) -> tuple[str, ...]:
    every = [str(name) for name in names]
    wrong = hostile(every)
    return tuple(name for name in every if name not in wrong)


def _is_config(name: str) -> bool:
    return name.rsplit("/", 1)[-1] == CONFIG


def _bases(card: Mapping[str, Any], tags: Any) -> tuple[str, ...]:
    named = card.get("base_model")
    listed = named if isinstance(named, list) else [named]
    told = [tag.removeprefix(_TAGS[0]) for tag in map(str, tags or ()) if tag.startswith(_TAGS[0])]
    return tuple(dict.fromkeys(filter(None, (*map(_text, listed), *told))))


def _figures(info: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    licence = card.get("license")
    tagged = [t.removeprefix("license:") for t in map(str, info.tags or ()) if t[:8] == "license:"]
    return {
        "downloads": _count(info.downloads),
        "likes": _count(info.likes),
        "trending": _count(info.trending_score),
        "created": _date(info.created_at),
        "modified": _date(info.last_modified),
        "licence": _text(licence) or (tagged or [""])[0],
        "gated": info.gated if isinstance(info.gated, str) else "manual" if info.gated else "",
        "private": bool(info.private),
    }


def _date(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
