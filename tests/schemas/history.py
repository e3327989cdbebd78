"""Which PEFT release brought or took each field of each config: history.tsv, beside this file.

A row is owner (a peft_type, or the class of a nested config or of an enum), field, since, until
(empty: it is still there), `null` where some release had None as its default, annotation, default.
A row without a field is about its owner.
"""

from __future__ import annotations

import csv
import re
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from tests.schemas.peft_fields import Field, Peft

FILE = Path(__file__).with_name("history.tsv")
NEWEST = "newest"  # the owner of the row that says up to which release all this is known


@dataclass(frozen=True)
class Row:
    """What is known of one field."""

    owner: str
    field: str
    since: str
    until: str = ""
    null: str = ""
    annotation: str = ""
    default: str = ""


History = dict[tuple[str, str], Row]


def load(path: Path = FILE) -> History:
    """Read the history."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [Row(*line) for line in csv.reader(file, delimiter="\t")][1:]
    return {(row.owner, row.field): row for row in rows}


def save(history: History, path: Path = FILE) -> None:
    """Write the history."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(f.name for f in fields(Row))
        writer.writerows(astuple(history[key]) for key in sorted(history))


def newest(history: History) -> str:
    """Give the release up to which all this is known."""
    return history[NEWEST, ""].since


def seeded(folder: Path) -> History:
    """Make the history of the three tables that were read from every PEFT release."""

    def table(name: str) -> list[list[str]]:
        lines = (folder / name).read_text("utf-8").splitlines()
        return [line.split("\t") for line in lines[1:]]

    types = table("peft_types.tsv")
    last = max((line[2] for line in types), key=number)
    rows = [Row(NEWEST, "", last), *(Row(n, "", a, "" if b == last else b) for n, a, b in types)]
    for owner, field, annotation, default, since, until, *before in [
        *table("peft_fields.tsv"), *table("peft_subconfigs.tsv"),
    ]:  # fmt: skip
        null = default == "None" or " = None" in " ".join(before)
        until = "" if until == last else until
        rows.append(Row(owner, field, since, until, "null" * null, annotation, default))
    return {(row.owner, row.field): row for row in rows}


def number(version: str) -> tuple[int, ...]:
    """Give a release as numbers, to compare it."""
    return tuple(int(part) for part in version.split("."))


def updated(history: History, peft: Peft) -> History:
    """Write down what a PEFT of the newest known release, or a newer one, says of itself."""
    last = newest(history)
    if number(peft.version) < number(last):
        raise ValueError(f"PEFT {peft.version} is older than {last}, up to which all is known.")
    there = {(kind, ""): Field("", "", "") for kind in peft.types}
    there |= {(o, field.name): field for o, all_ in owners(peft).items() for field in all_}
    rows = {(NEWEST, ""): Row(NEWEST, "", peft.version)}
    for key, field in there.items():
        old = history.get(key) or Row(*key, peft.version)
        null = old.null or "null" * (field.default == "None")
        rows[key] = Row(*key, old.since, "", null, field.annotation, field.default)
    for name, literal in enums(peft).items():
        rows[name, ""] = Row(name, "", "", annotation=literal)
    for key, row in history.items():
        rows.setdefault(key, replace(row, until=row.until or last))
    return rows


def owners(peft: Peft) -> dict[str, tuple[Field, ...]]:
    """Give the fields of every type, and of every config that is nested in one."""
    held = {kind: peft.classes[name] for kind, name in peft.types.items()}
    names = _words(held)
    return held | {name: all_ for name, all_ in peft.classes.items() if name in names}


def enums(peft: Peft) -> dict[str, str]:
    """Give the enums that some field uses."""
    names = _words(owners(peft)) - {"PeftType"}
    return {name: literal for name, literal in peft.literals.items() if name in names}


def _words(owned: dict[str, tuple[Field, ...]]) -> set[str]:
    annotations = [field.annotation for all_ in owned.values() for field in all_]
    return set(re.findall(r"\w+", " ".join(annotations)))
