"""Annotations: the runner of GitHub Actions gets back what was meant, and nothing else."""

import re
from dataclasses import dataclass
from pathlib import Path

from adaptertools.cli.reports import Page
from adaptertools.cli.reports.github import LARGEST, render
from adaptertools.report import Report
from tests.cli.reports import HOSTILE, found, hostile, report


@dataclass
class Command:
    """What the runner makes of a line."""

    name: str
    properties: dict[str, str]
    data: str


def parsed(text: str) -> list[Command]:
    """Read lines as the runner does: https://docs.github.com/actions, workflow commands."""
    return [command(each) for each in re.split(r"\r\n|\r|\n", text.rstrip("\n"))]


def command(line: str) -> Command:
    match = re.fullmatch(r"::(?P<name>\w+) (?P<said>.*?)::(?P<data>.*)", line)
    assert match, line
    pairs = (each.split("=", 1) for each in match["said"].split(","))
    properties = {key: unescaped(value) for key, value in pairs}
    return Command(match["name"], properties, unescaped(match["data"], only="%0D %0A %25"))


def unescaped(text: str, only: str = "%0D %0A %3A %2C %25") -> str:
    for code in only.split():
        text = text.replace(code, chr(int(code[1:], 16)))
    return text


def said(reports: list[Report], page: Page) -> list[Command]:
    return parsed("".join(render(reports, page)))


def test_whole(tmp_path: Path) -> None:
    held = report(
        tmp_path / "a", found(text="100 % wrong"), found(text="also"), found(line=0, file="")
    )
    other = report(tmp_path / "b", found("SEC001", "warning", hint=""), found("WGT001", "note"))
    assert said([other, held], Page(workspace=tmp_path)) == [
        Command("error", {"file": "a/adapter_config.json", "line": "3", "col": "8",
                          "title": "CFG001 what CFG001 wants"},
                "100 % wrong (and 2 more)\nFix: Save it again."),
        Command("warning", {"file": "b/adapter_config.json", "line": "3", "col": "8",
                            "title": "SEC001 what SEC001 wants"}, "It is 0."),
        Command("notice", {"file": "b/adapter_config.json", "line": "3", "col": "8",
                           "title": "WGT001 what WGT001 wants"}, "It is 0.\nFix: Save it again."),
    ]  # fmt: skip


def test_hostile_names_make_no_commands(tmp_path: Path) -> None:
    held = hostile(tmp_path)
    text = "".join(render([held], Page(workspace=tmp_path)))
    every = parsed(text)
    # One for each file of CFG001, and one for WGT001, which names no file.
    assert [each.name for each in every] == ["error"] * len(HOSTILE) + ["notice"]
    assert all(each.properties.keys() == {"file", "line", "col", "title"} for each in every[:-1])
    assert all(line.isprintable() and line.count("::") == 2 for line in text.splitlines())
    assert "##[" not in text


def test_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    held = report(tmp_path / "a,line=9::x%2C", found())
    (only,) = said([held], Page(workspace=tmp_path))
    assert only.properties["file"] == r"a,line=9\x3a\x3ax%2C/adapter_config.json"
    assert only.properties["line"] == "3"


def test_summary(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n", "utf-8")
    page = Page(workspace=tmp_path, summary=file)
    held = hostile(tmp_path / "a")
    list(render([held, report(tmp_path / "b")], page))
    text = file.read_text("utf-8")
    assert text.startswith("before\n### adaptertools: 2 adapters, 13 errors, 13 notes\n")
    rows = [each for each in text.split("\n") if each.startswith("| error") or "| note" in each]
    assert len(rows) == len(held.findings)
    for row in rows:
        assert row.count("|") == 5
        # Nothing of theirs is left that Markdown or HTML reads: only our link, our cells.
        theirs = row.split("|", 3)[3]
        assert not set(theirs) & set("<>[]()`*_\\~")


def test_summary_of_nothing(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    assert list(render([report(tmp_path / "a")], Page(workspace=tmp_path, summary=file))) == []
    assert file.read_text("utf-8") == "### adaptertools: 1 adapter, clean\n\n"


def test_summary_stays_below_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    held = report(tmp_path / "a", *(found(text="é" * 900 + str(i)) for i in range(2000)))
    list(render([held], Page(workspace=tmp_path, summary=file)))
    text = file.read_text("utf-8")
    assert LARGEST - 3000 < len(text.encode()) < 2**20
    rows = text.count("| error |")
    assert f"… and {2000 - rows} more." in text
