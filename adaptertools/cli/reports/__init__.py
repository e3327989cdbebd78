"""How findings look to a person, a build or another program. One file per format.

What a report says may come from a stranger's files: `line` makes it safe in a log, and every
format passes through it, or through an encoding of its own, whatever it did not write itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, get_args

from adaptertools.checks import Check, catalogue
from adaptertools.errors import shown
from adaptertools.report import Finding, Level, Report

LEVELS: tuple[Level, ...] = get_args(Level)  # the worst first
NEVER = "never"
CONFIG = "adapter_config.json"

# Format -> what it is for. Static, so that --help imports none; a test compares it to the folder.
FORMATS = {
    "text": "for people",
    "json": "schemas/validation.schema.json",
    "jsonl": "an adapter per line",
    "github": "annotations, and the step's summary",
    "sarif": "SARIF 2.1.0, for code scanning",
    "junit": "a test suite per adapter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """How reports are set, beside what they say."""

    folder: Path = field(default_factory=Path.cwd)  # paths for people start here
    workspace: Path = field(default_factory=Path.cwd)  # paths for a build start here
    fail_on: str = "error"  # the least level that fails, or never
    quiet: bool = False
    verbose: bool = False
    colour: bool = False
    summary: Path | None = None  # where a build wants Markdown

    def fails(self, finding: Finding) -> bool:
        """Tell whether a finding is bad enough to fail."""
        return self.fail_on != NEVER and (LEVELS.index(finding.level) <= LEVELS.index(self.fail_on))


class Format(Protocol):
    """The contract of a file in this room."""

    def render(self, reports: Iterable[Report], page: Page) -> Iterator[str]:
        """Set reports, and give the text piece by piece."""
        ...


def load(name: str) -> Format:
    """Import a format of the table."""
    assert name in FORMATS
    return cast(Format, import_module(f"adaptertools.cli.reports.{name}"))


def line(text: object, limit: int = 1000) -> str:
    """Make a text fit for one line of a log: no control characters, no commands to a build."""
    return shown(text, limit).replace("::", r"\x3a\x3a").replace("##[", r"\x23\x23[")


def path(subject: str, file: str, start: Path) -> str:
    """Give where a file of an adapter is, from `start` where it is below, with slashes."""
    if not os.path.lexists(subject):  # a repository
        return f"{subject}/{file}" if file else subject
    whole = Path(os.path.abspath(os.path.join(subject, file)))
    return whole.relative_to(start).as_posix() if whole.is_relative_to(start) else whole.as_posix()


def skips(report: Report) -> list[tuple[str, str]]:
    """Give code and reason of each check that was skipped."""
    parts = (each.partition(": ") for each in report.skipped)
    return [(code, reason) for code, _, reason in parts]


def rule(code: str) -> Check | None:
    """Give what the catalogue says of a code."""
    return catalogue().get(code)


def counted(numbers: dict[Level, int]) -> str:
    """Write how many findings there are of each level."""
    said = [f"{n} {level}{'s' * (n != 1)}" for level in LEVELS if (n := numbers.get(level, 0))]
    return ", ".join(said) or "clean"


if TYPE_CHECKING:  # mypy holds each file of the room against the contract
    from adaptertools.cli.reports import github, json, jsonl, junit, sarif, text

    _ROOM: tuple[Format, ...] = (github, json, jsonl, junit, sarif, text)
