"""For people: `file:line:column CODE level text`, then the fix; in colour on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from adaptertools.cli.reports import Page, counted, line, path, rule, skips
from adaptertools.report import Finding, Level, Report

MOST = 5  # findings of one code in one adapter, unless -v is given

Pieces = list[tuple[str, str]]  # words and their style, of one line
_STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def render(reports: Iterable[Report], page: Page) -> Iterator[str]:
    """Give a group of lines per adapter that has findings, and what it comes to."""
    paint = _painter() if page.colour else _plain
    levels: Counter[Level] = Counter()
    adapters = clean = skipped = 0
    for report in reports:
        levels.update(finding.level for finding in report.findings)
        adapters += 1
        clean += not report.findings
        skipped += len(report.skipped)
        yield from map(paint, _group(report, page))
    if not page.quiet:
        some = f"; {clean} of them clean" if levels and clean else ""
        yield paint([(f"{adapters} adapter{'s' * (adapters != 1)}: {counted(levels)}", "bold"),
                     (some + _skipped(skipped, page), "")])  # fmt: skip


def _group(report: Report, page: Page) -> Iterator[Pieces]:
    """Write one adapter."""
    shown = [f for f in report.findings if page.fails(f) or not page.quiet]
    if page.verbose or (shown and not page.quiet):
        yield _title(report, page)
    for (code, hint), held in groupby(shown, lambda finding: (finding.code, finding.hint)):
        every = list(held)
        most = len(every) if page.verbose else MOST
        yield from (_finding(each, report, page) for each in every[:most])
        if len(every) > most:
            yield [(f"    … and {len(every) - most} more {line(code)} (-v lists them)", "dim")]
        if hint:
            yield [("    fix: ", "green"), (line(hint), "")]
    if page.verbose:
        for code, reason in skips(report):
            yield [(f"    skipped {line(code)}: {line(reason)}", "dim")]


def _title(report: Report, page: Page) -> Pieces:
    dialect = report.facts.get("dialect", "")
    known = f" ({line(dialect)})" if dialect else ""
    levels = Counter(finding.level for finding in report.findings)
    name = line(path(report.subject, "", page.folder))
    return [(f"{name}{known}: ", "bold"), (counted(levels), _worst(report))]


def _skipped(count: int, page: Page) -> str:
    hint = "" if page.verbose else " (-v lists them)"
    return f"; {count} check{'s' * (count != 1)} skipped{hint}" if count else ""


def _worst(report: Report) -> str:
    return _STYLES[report.findings[0].level] if report.findings else "green"


def _finding(finding: Finding, report: Report, page: Page) -> Pieces:
    place = line(path(report.subject, finding.file, page.folder))
    if finding.line:
        place += f":{finding.line}:{finding.column or 1}"
    check = rule(finding.code)
    link = f" link {check.link}" if check else ""
    return [
        (f"{place} ", ""), (line(finding.code), f"bold{link}"),
        (f" {finding.level} ", _STYLES[finding.level]), (line(finding.text), ""),
    ]  # fmt: skip


def _plain(pieces: Pieces) -> str:
    return "".join(words for words, _ in pieces) + "\n"


def _painter() -> Callable[[Pieces], str]:
    """Give what makes a line colourful; only a terminal pays for importing rich."""
    from rich.console import Console
    from rich.text import Text

    console = Console(force_terminal=True, highlight=False, soft_wrap=True)

    def paint(pieces: Pieces) -> str:
        with console.capture() as held:
            console.print(Text.assemble(*pieces))
        return held.get()

    return paint
