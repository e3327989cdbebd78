"""SARIF 2.1.0, for code scanning: https://docs.oasis-open.org/sarif/sarif/v2.1.0/

GitHub wants rules with stable ids, paths from the root of the repository and fingerprints, and
takes 25 000 results of a run; the worst come first and what is left out is said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from adaptertools.checks import LINK
from adaptertools.cli.reports import CONFIG, LEVELS, Page, line, path, rule, skips
from adaptertools.report import Finding, Level, Report
from adaptertools.version import VERSION

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
MOST = 25_000
# What GitHub calls high, medium and low.
SEVERITY: dict[Level, str] = {"error": "8.0", "warning": "5.0", "note": "2.0"}
FAMILIES = {
    "BAS": "base", "CFG": "config", "CRD": "card", "FIL": "files", "SEC": "security",
    "SRV": "serving", "TOK": "tokenizer", "WGT": "weights",
}  # fmt: skip


def render(reports: Iterable[Report], page: Page) -> Iterator[str]:
    """Give one log with one run."""
    held = list(reports)
    ran = {code for report in held for code in report.facts.get("checks_run", ())}
    every = [(report, finding) for report in held for finding in report.findings]
    every.sort(key=lambda each: LEVELS.index(each[1].level))
    codes = sorted(ran | {finding.code for _, finding in every})
    seen: Counter[str] = Counter()
    results = [_result(r, f, codes.index(f.code), page, seen) for r, f in every[:MOST]]
    run = {
        "tool": {"driver": {
            "name": "adaptertools", "semanticVersion": VERSION, "informationUri": _home(),
            "rules": [_rule(code) for code in codes],
        }},
        "invocations": [{"executionSuccessful": True, **_notifications(held, len(every))}],
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "The repository's root."}}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }  # fmt: skip
    yield json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _home() -> str:
    return LINK.partition("/blob/")[0]


def _rule(code: str) -> dict[str, Any]:
    check = rule(code)
    properties: dict[str, Any] = {"precision": "high", "tags": _tags(code)}
    if check is None:
        return {"id": line(code), "properties": properties}
    if code.startswith("SEC"):
        properties["security-severity"] = SEVERITY[check.level]
    return {
        "id": code,
        "name": check.run.__name__,
        "shortDescription": {"text": message(check.title)},
        "fullDescription": {"text": message(check.explanation)},
        "help": {"text": message(f"{check.explanation}\n\nFix: {check.fix}"),
                 "markdown": message(f"{check.explanation}\n\n**Fix:** {check.fix}")},
        "helpUri": check.link,
        "defaultConfiguration": {"level": check.level},
        "properties": properties,
    }  # fmt: skip


def _tags(code: str) -> list[str]:
    return ["adapter", *[FAMILIES[family] for family in (code[:3],) if family in FAMILIES]]


def _result(
    report: Report, finding: Finding, index: int, page: Page, seen: Counter[str]
) -> dict[str, Any]:
    where = path(report.subject, finding.file or CONFIG, page.workspace)
    physical: dict[str, Any] = {"artifactLocation": _artifact(where)}
    if finding.line:
        physical["region"] = {"startLine": finding.line, "startColumn": finding.column or 1}
    location: dict[str, Any] = {"physicalLocation": physical}
    if name := finding.tensor or finding.pointer:
        location["logicalLocations"] = [{"fullyQualifiedName": line(name)}]
    key = "\0".join((finding.code, where, finding.pointer or finding.tensor))
    print_ = sha256(_bytes(key)).hexdigest()
    seen[print_] += 1
    fix = f" Fix: {line(finding.hint)}" if finding.hint else ""
    return {
        "ruleId": line(finding.code), "ruleIndex": index, "level": finding.level,
        "message": {"text": message(line(finding.text) + fix)},
        "locations": [location],
        # The only one of them that GitHub looks at; the number tells equal ones apart.
        "partialFingerprints": {"primaryLocationLineHash": f"{print_}:{seen[print_]}"},
    }  # fmt: skip


def _artifact(where: str) -> dict[str, str]:
    name = quote(_bytes(where))
    if PurePosixPath(where).is_absolute():
        return {"uri": f"file://{name}"}
    return {"uri": name, "uriBaseId": "%SRCROOT%"}


def _bytes(name: str) -> bytes:
    # Halves of characters are possible in JSON, and in names of files that are not UTF-8.
    return name.encode("utf-8", "surrogatepass")


def message(text: str) -> str:
    """Escape a message: braces would be placeholders, brackets before parentheses links."""
    safe = "\n".join(map(line, text.split("\n")))
    return safe.replace("{", "{{").replace("}", "}}").replace("](", "] (")


def _notifications(reports: list[Report], results: int) -> dict[str, Any]:
    """Say what was not looked at, and what is not in the log."""
    said = Counter(each for report in reports for each in skips(report))
    notes = [
        {"level": "note", "message": {"text": message(f"Skipped in {n} adapters: {reason}")},
         "associatedRule": {"id": line(code)}}
        for (code, reason), n in sorted(said.items())
    ]  # fmt: skip
    if results > MOST:
        text = f"{results - MOST} of {results} results are left out; the worst are here."
        notes.append({"level": "warning", "message": {"text": text}})
    return {"toolExecutionNotifications": notes} if notes else {}
