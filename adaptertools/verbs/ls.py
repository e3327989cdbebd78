"""List what adaptertools has: the files of a room, and what they say of themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptertools import plugins
from adaptertools.errors import NotFound, shown
from adaptertools.methods._lora_forms import LORA_FORMS
from adaptertools.methods._refused import REFUSED

# A paper, as docstrings name it.
_PAPER = re.compile(r"\s*(?:(https?://[^\s,;)]+)|arXiv:(\d{4}\.\d{4,5}))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is in a room; every entry has the keys `name` and `title`."""

    room: str
    entries: tuple[Mapping[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/ls.schema.json describes."""
        return {"room": self.room, "entries": [dict(entry) for entry in self.entries]}


def ls(room: str) -> Listing:
    """List a room: methods, formats, quants, checks or blends.

    A method's entry says whether it can be merged or why not, whether a plain LoRA can hold it, and
    its paper; a format's whether it is read and written, what it cannot hold, and what proved it.
    Raises NotFound for another room.
    """
    if room not in ROOMS:
        raise NotFound(f"There is no list of {shown(room)}. There are {', '.join(ROOMS)}.")
    return Listing(room=room, entries=tuple(ROOMS[room]()))


def _methods() -> Iterator[Mapping[str, Any]]:
    merged = {name.upper(): _title("methods", name) for name in plugins.names("methods")}
    for name in sorted(merged.keys() | REFUSED.keys()):
        if name in REFUSED:
            why, instead, paper = REFUSED[name]
            yield {"name": name, "title": "", "merges": False, "why": f"{why}. {instead}.",
                   "lora": f"no: {why}", "paper": paper}  # fmt: skip
        else:
            title, paper = merged[name]
            yield {"name": name, "title": title, "merges": True, "why": "",
                   "lora": LORA_FORMS.get(name, ""), "paper": paper}  # fmt: skip


def _formats() -> Iterator[Mapping[str, Any]]:
    for name in plugins.names("formats"):
        module = plugins.load("formats", name)
        own = {key.lower(): getattr(module, key, "") for key in ("LACKS", "PROVED")}
        does = {f"{verb}s": hasattr(module, verb) for verb in ("read", "write")}
        yield {"name": name, "title": _title("formats", name)[0], **does, **own}


def _quants() -> Iterator[Mapping[str, Any]]:
    return _named("quant")


def _blends() -> Iterator[Mapping[str, Any]]:
    for name in plugins.names("blends"):
        module = plugins.load("blends", name)
        yield {"name": name.replace("_", "-"), "title": getattr(module, "TITLE", "")}


def _checks() -> Iterator[Mapping[str, Any]]:
    from adaptertools.checks import catalogue

    for code, check in sorted(catalogue().items()):
        yield {"name": code, "title": check.title}


def _named(room: str) -> Iterator[Mapping[str, Any]]:
    for name in plugins.names(room):
        title, paper = _title(room, name)
        yield {"name": name, "title": title} | ({"paper": paper} if paper else {})


def _title(room: str, name: str) -> tuple[str, str]:
    """Give the first paragraph of a file's docstring, and the first paper that it names."""
    text = plugins.load(room, name).__doc__ or ""
    first = " ".join(text.partition("\n\n")[0].split())
    found = _PAPER.search(text)
    paper = found and (found[1] or f"https://arxiv.org/abs/{found[2]}")
    return _PAPER.sub("", first).rstrip("."), paper or ""


ROOMS: Mapping[str, Callable[[], Iterator[Mapping[str, Any]]]] = {
    "methods": _methods, "formats": _formats, "quants": _quants, "checks": _checks,
    "blends": _blends,
}  # fmt: skip
