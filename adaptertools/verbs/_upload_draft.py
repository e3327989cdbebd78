"""What is going to be published, before anything is sent: contents, what stays, what to say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adaptertools.errors import Unsafe, shown
from adaptertools.hub.pieces import Content
from adaptertools.report import Finding, Level
from adaptertools.verbs._gather import LARGEST_HEADER
from adaptertools.verbs.validate import validate

WEIGHTS = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the user asked for, as far as it decides what is in the files."""

    folder: Path
    repo: str  # user/repo, or the folder's name in a store
    base: str | None
    include: Sequence[str]
    exclude: Sequence[str]
    check: bool  # refuse what validation finds
    temp: Path  # for what is written on the way


@dataclass(kw_only=True)
class Draft:
    """An upload that is being put together."""

    kind: str  # adapter, merged
    contents: dict[str, Content]
    left: Mapping[str, str]
    base: str
    relation: str
    message: str = ""
    said: list[Finding] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)  # file -> what was done to it on the way

    def say(self, code: str, text: str, place: str = "", level: Level = "note") -> None:
        """Keep a finding."""
        self.said.append(Finding(code=code, level=level, place=place, text=text, file=place))


def stage(contents: Mapping[str, Content], folder: Path) -> Path:
    """Lay out what will be published as a folder that can be inspected and validated.

    Of weights only the header is copied; behind it the file is empty, and as long as the real one.
    """
    for name, content in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif name.endswith(WEIGHTS):
            _header(content, target)
        else:
            shutil.copyfile(content, target)
    return folder


def _header(source: Path, target: Path) -> None:
    with source.open("rb") as held, target.open("wb") as made:
        size = source.stat().st_size
        length = int.from_bytes(held.read(8), "little")
        held.seek(0)
        made.write(held.read(8 + min(length, LARGEST_HEADER)))
        made.truncate(size)


def check(draft: Draft, staged: Path, ask: Ask, select: Sequence[str] = ()) -> None:
    """Validate what will be published; warnings are kept, errors refuse the upload.

    Raises Unsafe with each error as a note.
    """
    found = validate(staged, select=select).findings
    errors = [each for each in found if each.level == "error"]
    if errors:
        codes = ", ".join(dict.fromkeys(each.code for each in errors))
        error = Unsafe(
            f"{shown(ask.folder)} is not uploaded: validation found {len(errors)} "
            f"error{'s' * (len(errors) > 1)} ({codes}) in what would be sent. Mend them, or pass "
            "--no-validate."
        )
        for each in errors:
            place = f"{each.place}: " if each.place else ""
            error.add_note(f"  {each.code} {place}{shown(each.text, 500)} {each.hint}".rstrip())
        raise error
    draft.said += [each for each in found if each.level == "warning"]
