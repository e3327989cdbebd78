"""What a project has settled for itself: [tool.adaptertools] in its pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from adaptertools.cli.reports import LEVELS, NEVER
from adaptertools.errors import shown

FILE, TABLE = "pyproject.toml", "adaptertools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings, spelled as the options are; what is not set is as if there were none."""

    file: Path | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    strict: bool = False
    fail_on: str | None = None

    def __str__(self) -> str:
        """Write what is set, on one line."""
        names = [f.name for f in fields(self) if f.name != "file" and getattr(self, f.name)]
        return "; ".join(f"{name.replace('_', '-')} {_said(getattr(self, name))}" for name in names)


def read(start: Path) -> Settings:
    """Read the nearest pyproject.toml, from a folder upwards, that has our table in it.

    Nothing above the root of a git checkout is looked at. Raises click.ClickException where the
    file cannot be read, or says what we do not understand.
    """
    for folder in (start, *start.parents):
        file = folder / FILE
        if file.is_file() and (table := _table(file)) is not None:
            return _checked(file, table)
        if (folder / ".git").exists():
            break
    return Settings()


def _table(file: Path) -> Mapping[str, Any] | None:
    try:
        found = tomllib.loads(file.read_text("utf-8")).get("tool", {})
        table = found.get(TABLE) if isinstance(found, dict) else None
    except (OSError, ValueError, RecursionError) as error:
        raise click.ClickException(f"{shown(file)} cannot be read: {shown(error)}.") from error
    if table is not None and not isinstance(table, dict):
        raise click.ClickException(f"{shown(file)}: [tool.{TABLE}] should be a table.")
    return table


def _checked(file: Path, table: Mapping[str, Any]) -> Settings:
    known = {f.name.replace("_", "-"): f.name for f in fields(Settings) if f.name != "file"}
    given: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            close = get_close_matches(key, known, 1)
            hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
            raise click.ClickException(
                f"{shown(file)}: [tool.{TABLE}] has {shown(key)!r}, which is no setting. {hint}"
            )
        given[known[key]] = _value(f"{shown(file)}: [tool.{TABLE}] {key}", known[key], value)
    return Settings(file=file, **given)


def _value(where: str, name: str, value: Any) -> Any:
    is_right, wanted = _KINDS[name]
    if not is_right(value):
        raise click.ClickException(f"{where} is {shown(value)}; expected {wanted}.")
    return tuple(value) if isinstance(value, list) else value


def _is_codes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


_CODES = _is_codes, 'a list of codes, such as ["SEC", "WGT014"]'
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "select": _CODES,
    "ignore": _CODES,
    "severity": (
        lambda value: isinstance(value, dict) and all(each in LEVELS for each in value.values()),
        f'a table of {", ".join(LEVELS)}, such as {{WGT014 = "error"}}',
    ),
    "target": (lambda value: isinstance(value, str), "a name, such as \"vllm\""),
    "strict": (lambda value: isinstance(value, bool), "true or false"),
    "fail_on": (
        lambda value: value in (*LEVELS, NEVER), f"one of {', '.join((*LEVELS, NEVER))}"
    ),
}  # fmt: skip


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{shown(key)}={shown(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    return "on" if value is True else shown(value)
