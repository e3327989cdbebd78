"""Annotations of GitHub Actions, and the summary of the step.

Ten errors and ten warnings of a step are shown, so findings of one code in one file share an
annotation and the worst come first; the summary lists everything, up to its limit of 1 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from adaptertools.cli.reports import CONFIG, LEVELS, Page, counted, line, path, rule
from adaptertools.report import Finding, Level, Report

COMMANDS: dict[Level, str] = {"error": "error", "warning": "warning", "note": "notice"}
LARGEST = 900_000  # bytes of a summary; GitHub drops the whole of one above 1 MiB
HEAD = "| level | check | where | finding |\n| --- | --- | --- | --- |\n"

Placed = tuple[str, Finding]  # the path, as the build knows it


def render(reports: Iterable[Report], page: Page) -> Iterator[str]:
    """Give an annotation per code and file; write the summary where the page names a file."""
    held = list(reports)
    every = sorted((p for report in held for p in _placed(report, page)), key=_order)
    for _, same in groupby(every, _order):
        yield _annotation(list(same))
    if page.summary is not None:
        with page.summary.open("a", encoding="utf-8", newline="\n") as file:
            file.write(summary(held, every))


def summary(reports: list[Report], every: list[Placed]) -> str:
    """Give Markdown: what it comes to, and a row per finding as far as they may go."""
    levels = {level: sum(f.level == level for _, f in every) for level in LEVELS}
    s = "s" * (len(reports) != 1)
    text = f"### adaptertools: {len(reports)} adapter{s}, {counted(levels)}\n\n"
    rows = [_row(where, finding) for where, finding in every]
    size, count = len(text) + len(HEAD), 0
    while count < len(rows) and size + len(rows[count].encode()) <= LARGEST:
        size += len(rows[count].encode())
        count += 1
    left = f"\n… and {len(rows) - count} more.\n" if count < len(rows) else ""
    return text + (HEAD + "".join(rows[:count]) + left + "\n" if rows else "")


def _placed(report: Report, page: Page) -> Iterator[Placed]:
    for finding in report.findings:
        yield path(report.subject, finding.file or CONFIG, page.workspace), finding


def _order(placed: Placed) -> tuple[int, str, str]:
    where, finding = placed
    return LEVELS.index(finding.level), finding.code, where


def _annotation(same: list[Placed]) -> str:
    where, finding = same[0]
    check = rule(finding.code)
    values = {
        "file": line(where),
        "line": str(finding.line or ""),
        "col": str(finding.column or "") if finding.line else "",
        "title": f"{line(finding.code)} {check.title if check else ''}".strip(),
    }
    said = ",".join(f"{key}={_property(value)}" for key, value in values.items() if value)
    more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
    text = line(finding.text) + more + (f"\nFix: {line(finding.hint)}" if finding.hint else "")
    return f"::{COMMANDS[finding.level]} {said}::{_data(text)}\n"


def _data(text: str) -> str:
    """Escape what follows the second pair of colons."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _row(where: str, finding: Finding) -> str:
    check = rule(finding.code)
    code = f"[{finding.code}]({check.link})" if check else _cell(finding.code)
    at = f":{finding.line}" if finding.line else ""
    return f"| {finding.level} | {code} | {_cell(where)}{at} | {_cell(finding.text)} |\n"


def _cell(text: str) -> str:
    """Escape a text for a cell of a table: what Markdown or HTML would take for its own."""
    return "".join(f"&#{ord(c)};" if c in "\\`*_{}[]()<>#!|~&@$:" else c for c in line(text))
