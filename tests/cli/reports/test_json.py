"""JSON: what the schema describes, with names as they are."""

import json
from pathlib import Path

import pytest

from adaptertools import schema
from adaptertools.cli.reports import Page
from adaptertools.cli.reports import json as as_json
from adaptertools.cli.reports import jsonl as as_lines
from adaptertools.errors import Unreadable
from adaptertools.report import Report
from tests.cli.reports import HOSTILE, found, hostile, report


@pytest.fixture
def held(tmp_path: Path) -> list[Report]:
    first = report(tmp_path / "a", found(), found("XYZ123", "warning", file="", line=0, pointer=""))
    return [first, hostile(tmp_path / "b"), report(tmp_path / "c", skipped=("BAS001: no base",))]


def test_it_is_what_the_schema_describes(held: list[Report]) -> None:
    text = "".join(as_json.render(held, Page()))
    assert text.isascii()
    value = json.loads(text)
    schema.check("validation", value)
    assert value["summary"] == {"adapters": 3, "error": 14, "warning": 1, "note": 13}
    assert [each["ok"] for each in value["adapters"]] == [False, False, True]
    assert not value["ok"]
    assert value["adapters"][0]["findings"] == [
        {"code": "CFG001", "level": "error", "text": "It is 0.", "hint": "Save it again.",
         "file": "adapter_config.json", "line": 3, "column": 8, "pointer": "/r", "tensor": None,
         "link": as_json.rule("CFG001").link},
        {"code": "XYZ123", "level": "warning", "text": "It is 0.", "hint": "Save it again.",
         "file": None, "line": None, "column": 8, "pointer": None, "tensor": None, "link": None},
    ]  # fmt: skip
    assert value["adapters"][2]["checks_skipped"] == [{"code": "BAS001", "reason": "no base"}]


def test_names_come_through_whole(held: list[Report]) -> None:
    value = json.loads("".join(as_json.render(held, Page())))
    said = [each["tensor"] for each in value["adapters"][1]["findings"] if each["tensor"]]
    # JSON has no way to tell a pair of surrogates from the character that it means.
    assert [json.loads(json.dumps(name)) for name in HOSTILE] == said


def test_ok_follows_fail_on(held: list[Report]) -> None:
    value = json.loads("".join(as_json.render(held, Page(fail_on="never"))))
    assert (value["ok"], value["fail_on"]) == (True, "never")


def test_lines_hold_the_same(held: list[Report]) -> None:
    pieces = list(as_lines.render(held, Page()))
    assert all(piece.count("\n") == 1 and piece.endswith("\n") for piece in pieces)
    lines = [json.loads(piece) for piece in pieces]
    for each in lines:
        schema.check("validation", each)
        assert each.pop("format") == 1
    assert lines == json.loads("".join(as_json.render(held, Page())))["adapters"]


@pytest.mark.parametrize("spoil", [{"format": 2}, {"surplus": 1}, {"ok": "yes"}])
def test_the_schema_refuses(held: list[Report], spoil: dict[str, object]) -> None:
    value = json.loads("".join(as_json.render(held, Page())))
    for good in (value, {"format": 1, **value["adapters"][0]}):
        schema.check("validation", good)
        with pytest.raises(Unreadable, match="validation"):
            schema.check("validation", {**good, **spoil})
