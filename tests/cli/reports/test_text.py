"""Text: a line per finding, and nothing that a terminal or a log would take for a command."""

import re
from pathlib import Path

from adaptertools.cli.reports import Page
from adaptertools.cli.reports.text import MOST, render
from adaptertools.report import Report
from tests.cli.reports import found, hostile, report

CODES = re.compile(r"\x1b\[[0-9;]*m|\x1b\]8;[^\x1b]*\x1b\\")  # colours, and links around words


def page(folder: Path, **how: object) -> Page:
    return Page(folder=folder, **how)  # type: ignore[arg-type]


def lines(reports: list[Report], page: Page) -> list[str]:
    return "".join(render(reports, page)).splitlines()


def test_whole(tmp_path: Path) -> None:
    first = report(
        tmp_path / "a", found(), found(text="It is 1.", line=0),
        found("SEC001", "warning", hint=""), skipped=("BAS001: no base",),
    )  # fmt: skip
    assert lines([first, report(tmp_path / "b")], page(tmp_path)) == [
        "a (peft): 2 errors, 1 warning",
        "a/adapter_config.json:3:8 CFG001 error It is 0.",
        "a/adapter_config.json CFG001 error It is 1.",
        "    fix: Save it again.",
        "a/adapter_config.json:3:8 SEC001 warning It is 0.",
        "2 adapters: 2 errors, 1 warning; 1 of them clean; 1 check skipped (-v lists them)",
    ]


def test_clean(tmp_path: Path) -> None:
    assert lines([report(tmp_path)], page(tmp_path)) == ["1 adapter: clean"]
    assert lines([report(tmp_path)], page(tmp_path, quiet=True)) == []


def test_quiet_says_what_fails(tmp_path: Path) -> None:
    held = report(tmp_path, found("SEC001", "warning"), found("WGT001", "note"))
    assert lines([held], page(tmp_path, quiet=True)) == []
    assert lines([held], page(tmp_path, quiet=True, fail_on="warning")) == [
        "adapter_config.json:3:8 SEC001 warning It is 0.",
        "    fix: Save it again.",
    ]


def test_many_of_a_kind_are_counted(tmp_path: Path) -> None:
    held = [report(tmp_path, *(found(text=f"It is {i}.") for i in range(MOST + 2)))]
    said = lines(held, page(tmp_path))
    assert sum(" error It is " in each for each in said) == MOST
    assert "    … and 2 more CFG001 (-v lists them)" in said
    said = lines(held, page(tmp_path, verbose=True))
    assert sum(" error It is " in each for each in said) == MOST + 2


def test_verbose_lists_what_was_skipped(tmp_path: Path) -> None:
    said = lines([report(tmp_path, skipped=("BAS001: no base",))], page(tmp_path, verbose=True))
    assert said == [
        ". (peft): clean",
        "    skipped BAS001: no base",
        "1 adapter: clean; 1 check skipped",
    ]


def test_hostile_names_stay_on_their_line(tmp_path: Path) -> None:
    held = hostile(tmp_path)
    text = "".join(render([held], page(tmp_path, verbose=True)))
    assert all(each.isprintable() for each in text.split("\n"))
    assert "::" not in text
    assert "##[" not in text
    # A title, a line per finding, the fixes, the skipped ones, a sum.
    fixes = len({finding.hint for finding in held.findings})
    assert text.count("\n") == 1 + len(held.findings) + fixes + len(held.skipped) + 1


def test_colour_adds_nothing_but_colour(tmp_path: Path) -> None:
    held = [hostile(tmp_path / "a"), report(tmp_path / "b", found())]
    plain = "".join(render(held, page(tmp_path)))
    colourful = "".join(render(held, page(tmp_path, colour=True)))
    assert colourful != plain
    assert CODES.sub("", colourful) == plain


def test_it_comes_as_the_reports_do(tmp_path: Path) -> None:
    taken: list[str] = []

    def reports() -> object:
        for name in ("a", "b"):
            taken.append(name)
            yield report(tmp_path / name, found())

    pieces = render(reports(), page(tmp_path))  # type: ignore[arg-type]
    assert next(pieces).startswith("a (peft)")
    assert taken == ["a"]
