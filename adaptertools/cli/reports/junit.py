"""JUnit XML: a test suite per adapter, a test case per check; skipped ones are skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from adaptertools.cli.reports import Page, line, path, rule, skips
from adaptertools.report import Finding, Report

COUNTS = ("tests", "failures", "errors")


def render(reports: Iterable[Report], page: Page) -> Iterator[str]:
    """Give one document; nothing in it but ASCII, other characters are written as references."""
    root = Element("testsuites", name="adaptertools validate")
    root.extend(_suite(report, page) for report in reports)
    for key in COUNTS:
        root.set(key, str(sum(int(suite.get(key, 0)) for suite in root)))
    indent(root)
    yield '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root).decode("ascii") + "\n"


def _suite(report: Report, page: Page) -> Element:
    name = line(path(report.subject, "", page.workspace))
    suite = Element("testsuite", name=name)
    found = {code: list(same) for code, same in groupby(sorted(report.findings, key=_code), _code)}
    skipped = dict(skips(report))
    codes = sorted({*report.facts.get("checks_run", ()), *found, *skipped})
    for code in codes:
        suite.append(_case(code, found.get(code, []), name, report, page))
        if code in skipped and code not in found:
            SubElement(suite[-1], "skipped", message=line(skipped[code]))
    counts = {
        "tests": len(codes),
        "failures": sum(case.find("failure") is not None for case in suite),
        "errors": 0,
        "skipped": sum(case.find("skipped") is not None for case in suite),
    }
    for key, count in counts.items():
        suite.set(key, str(count))
    return suite


def _code(finding: Finding) -> str:
    return finding.code


def _case(code: str, found: list[Finding], name: str, report: Report, page: Page) -> Element:
    check = rule(code)
    title = f"{line(code)} {check.title if check else ''}".strip()
    case = Element("testcase", classname=name, name=title)
    if failing := [finding for finding in found if page.fails(finding)]:
        message = line(failing[0].text)
        failure = SubElement(case, "failure", type=failing[0].level, message=message)
        failure.text = _words(failing, report, page)
    if milder := [finding for finding in found if not page.fails(finding)]:
        SubElement(case, "system-out").text = _words(milder, report, page)
    return case


def _words(found: list[Finding], report: Report, page: Page) -> str:
    lines = []
    for finding in found:
        place = line(path(report.subject, finding.file, page.workspace))
        place += f":{finding.line}:{finding.column or 1}" if finding.line else ""
        lines.append(f"{place} {finding.level}: {line(finding.text)}")
    hints = dict.fromkeys(f"fix: {line(f.hint)}" for f in found if f.hint)
    return "\n".join([*lines, *hints])
