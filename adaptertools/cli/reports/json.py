"""JSON, as schemas/validation.schema.json describes it; everything is there, names as they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from adaptertools.cli.reports import LEVELS, Page, rule, skips
from adaptertools.report import Finding, Report, plain
from adaptertools.version import VERSION

FORMAT = 1  # of the JSON; goes up when a key goes or changes its meaning


def render(reports: Iterable[Report], page: Page) -> Iterator[str]:
    """Give one object with every adapter."""
    adapters = [adapter(report, page) for report in reports]
    levels: Counter[str] = Counter()
    for each in adapters:
        levels.update(each["summary"])
    whole: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "fail_on": page.fail_on,
        "ok": all(each["ok"] for each in adapters),
        "summary": {"adapters": len(adapters), **{level: levels[level] for level in LEVELS}},
        "adapters": adapters,
    }
    yield json.dumps(whole, indent=2) + "\n"


def adapter(report: Report, page: Page) -> dict[str, Any]:
    """Give what is said of one adapter."""
    levels = Counter(finding.level for finding in report.findings)
    value: dict[str, Any] = {
        "subject": report.subject,
        "ok": not any(page.fails(finding) for finding in report.findings),
        "dialect": report.facts.get("dialect", ""),
        "summary": {level: levels[level] for level in LEVELS},
        "findings": [_finding(finding) for finding in report.findings],
        "checks_run": list(report.facts.get("checks_run", ())),
        "checks_skipped": [{"code": code, "reason": reason} for code, reason in skips(report)],
    }
    return {key: plain(item) for key, item in value.items()}


def _finding(finding: Finding) -> dict[str, Any]:
    check = rule(finding.code)
    return {
        "code": finding.code, "level": finding.level, "text": finding.text, "hint": finding.hint,
        "file": finding.file or None, "line": finding.line or None,
        "column": finding.column or None, "pointer": finding.pointer or None,
        "tensor": finding.tensor or None, "link": check.link if check else None,
    }  # fmt: skip
