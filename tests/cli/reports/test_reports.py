"""What the formats share: the table, paths, lines and levels."""

from pathlib import Path

import pytest

from adaptertools.cli import reports
from adaptertools.cli.reports import LEVELS, Page, counted, line, load, path, skips
from tests.cli.reports import HOSTILE, found, report


def test_the_table_is_the_folder() -> None:
    files = {file.stem for file in Path(reports.__file__).parent.glob("*.py")}
    assert files - {"__init__"} == reports.FORMATS.keys()
    for name in reports.FORMATS:
        assert load(name).__doc__


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_is_one_line_and_no_command(text: str) -> None:
    safe = line(text)
    assert safe.isprintable()
    assert "::" not in safe
    assert "##[" not in safe


def test_a_line_keeps_what_is_harmless_and_ends() -> None:
    assert line("layers.0.q_proj: r=8 ≠ 16 (é)") == "layers.0.q_proj: r=8 ≠ 16 (é)"
    assert len(line("x" * 5000)) == 1000


@pytest.mark.parametrize(
    ("fail_on", "failing"),
    [("error", 1), ("warning", 2), ("note", 3), ("never", 0)],
)
def test_what_fails(fail_on: str, failing: int) -> None:
    page = Page(fail_on=fail_on)
    assert [page.fails(found(level=level)) for level in LEVELS] == [i < failing for i in range(3)]


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    assert path("b", "x/y.json", tmp_path) == "a/b/x/y.json"
    assert path(".", "y.json", tmp_path / "a") == "y.json"
    assert path(".", "", tmp_path / "a") == "."
    assert path("..", "y.json", tmp_path / "a") == (tmp_path / "y.json").as_posix()
    assert path("user/repo@main", "y.json", tmp_path) == "user/repo@main/y.json"
    assert path("user/repo", "", tmp_path) == "user/repo"


def test_counts() -> None:
    assert counted({}) == "clean"
    assert counted({"warning": 2, "error": 1, "note": 0}) == "1 error, 2 warnings"


def test_skips(tmp_path: Path) -> None:
    held = report(tmp_path, skipped=("BAS001: no base: pass --base", "TOK001: "))
    assert skips(held) == [("BAS001", "no base: pass --base"), ("TOK001", "")]
