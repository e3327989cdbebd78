"""What a verb gives back: what it found, what it did, and how exact that was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from math import isfinite
from typing import Any, Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing worth saying: what it is, how bad, where, and what to do."""

    code: str
    level: Level
    place: str
    text: str
    hint: str = ""
    file: str = ""  # relative to the folder that it is about
    line: int = 0  # from 1; 0 where the file has no lines or the place is not known
    column: int = 0
    pointer: str = ""  # RFC 6901, into a JSON file
    tensor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a verb."""

    verb: str
    subject: str  # the folder or reference it is about
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # figures, JSON-able

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.level != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/report.schema.json describes."""
        body = {
            "verb": self.verb,
            "subject": self.subject,
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "skipped": list(self.skipped),
            "facts": dict(self.facts),
        }
        return {key: plain(value) for key, value in body.items()}


def plain(value: Any) -> Any:
    """Give a value as JSON can say it: objects for our records, null for NaN and infinity."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return None if isinstance(value, float) and not isfinite(value) else value
