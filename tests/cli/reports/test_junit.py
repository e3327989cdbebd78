"""JUnit: what readers of it expect, counts that add up, and XML whatever the names are."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from adaptertools.cli.reports import Page
from adaptertools.cli.reports.junit import render
from adaptertools.report import Report
from tests.cli.reports import HOSTILE, found, hostile, official, report

# After Jenkins' junit-10.xsd: element -> attributes that it must and may have, and children.
ELEMENTS = {
    "testsuites": ({"tests", "failures", "errors"}, {"name", "time"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp", "hostname", "id", "package"},
        {"testcase", "properties", "system-out", "system-err"},
    ),
    "testcase": (
        {"name"}, {"classname", "time"}, {"skipped", "failure", "system-out", "system-err"}
    ),
    "failure": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}  # fmt: skip


def suites(reports: list[Report], page: Page) -> list[ElementTree.Element]:
    """Render, read back and check; give the suites."""
    text = "".join(render(reports, page))
    assert text.isascii()
    if validator := official.junit():
        validator.validate(text.encode())
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        must, may, children = ELEMENTS[element.tag]
        assert must <= set(element.keys()) <= must | may, element.tag
        assert {child.tag for child in element} <= children
        if children:
            assert not (element.text or "").strip()
    for suite in root:
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases))
        assert suite.get("errors") == "0"
        for kind in ("failure", "skipped"):
            count = sum(case.find(kind) is not None for case in cases)
            assert suite.get(kind + "s" * (kind == "failure")) == str(count)
    for key in ("tests", "failures", "errors"):
        assert int(root.get(key)) == sum(int(suite.get(key)) for suite in root)
    return list(root)


def test_whole(tmp_path: Path) -> None:
    held = report(
        tmp_path / "a", found(), found(text="Twice."), found("WGT001", "note", hint=""),
        skipped=("BAS001: no base",),
    )  # fmt: skip
    first, second = suites([held, report(tmp_path / "b")], Page(workspace=tmp_path))
    assert [case.get("name") for case in first] == [
        "BAS001", "CFG001 what CFG001 wants", "SEC001 what SEC001 wants",
        "WGT001 what WGT001 wants",
    ]  # fmt: skip
    assert {case.get("classname") for case in first} == {"a"}
    skipped, failed, passed, noted = first
    assert skipped.find("skipped").get("message") == "no base"
    assert failed.find("failure").attrib == {"type": "error", "message": "It is 0."}
    assert failed.find("failure").text == (
        "a/adapter_config.json:3:8 error: It is 0.\n"
        "a/adapter_config.json:3:8 error: Twice.\n"
        "fix: Save it again."
    )
    assert list(passed) == []
    assert noted.find("system-out").text == "a/adapter_config.json:3:8 note: It is 0."
    assert [list(case) for case in second] == [[], []]


@pytest.mark.parametrize(
    ("fail_on", "failing"), [("error", 1), ("warning", 2), ("note", 3), ("never", 0)]
)
def test_what_fails_is_a_failure(fail_on: str, failing: int, tmp_path: Path) -> None:
    held = report(tmp_path, found(), found("SEC001", "warning"), found("WGT001", "note"))
    (suite,) = suites([held], Page(workspace=tmp_path, fail_on=fail_on))
    assert suite.get("failures") == str(failing)
    assert sum(case.find("system-out") is not None for case in suite) == 3 - failing


def test_hostile_names_are_xml_and_on_one_line(tmp_path: Path) -> None:
    (suite,) = suites([hostile(tmp_path)], Page(workspace=tmp_path, fail_on="note"))
    assert suite.get("tests") == "3"
    failures = [case.find("failure") for case in suite if case.find("failure") is not None]
    assert len(failures) == 2
    for failure in failures:
        assert all(line.isprintable() for line in failure.text.split("\n"))
    assert len(failures[0].text.split("\n")) == 2 * len(HOSTILE)
    text = "".join(render([hostile(tmp_path)], Page(workspace=tmp_path)))
    assert "\n::" not in text


def test_nothing_at_all(tmp_path: Path) -> None:
    assert suites([], Page(workspace=tmp_path)) == []
