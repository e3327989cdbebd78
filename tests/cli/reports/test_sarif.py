"""SARIF: of the right shape, with stable fingerprints, and nothing that a viewer would follow."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest

from adaptertools.cli.reports import Page, sarif
from adaptertools.report import Report
from tests.cli.reports import HOSTILE, found, official, report
from tests.cli.reports.sarif_subset import LOG


def logged(reports: list[Report], page: Page) -> dict[str, Any]:
    """Render, hold against the schema, and give the run."""
    text = "".join(sarif.render(reports, page))
    assert text.isascii()
    value = json.loads(text)
    jsonschema.Draft7Validator(LOG).validate(value)
    if validator := official.sarif():
        validator.validate(value)
    (run,) = value["runs"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    return dict(run)


def prints(run: dict[str, Any]) -> list[str]:
    return [each["partialFingerprints"]["primaryLocationLineHash"] for each in run["results"]]


def test_whole(tmp_path: Path) -> None:
    tensor = found("WGT001", "note", file="w.safetensors", line=0, pointer="", tensor="a.b")
    run = logged([report(tmp_path / "a b", tensor, found())], Page(workspace=tmp_path))
    first, second = run["results"]
    assert first == {
        "ruleId": "CFG001", "ruleIndex": 0, "level": "error",
        "message": {"text": "It is 0. Fix: Save it again."},
        "locations": [{
            "physicalLocation": {
                "artifactLocation": {"uri": "a%20b/adapter_config.json", "uriBaseId": "%SRCROOT%"},
                "region": {"startLine": 3, "startColumn": 8},
            },
            "logicalLocations": [{"fullyQualifiedName": "/r"}],
        }],
        "partialFingerprints": first["partialFingerprints"],
    }  # fmt: skip
    (place,) = second["locations"]
    assert place["logicalLocations"] == [{"fullyQualifiedName": "a.b"}]
    assert "region" not in place["physicalLocation"]


def test_rules(tmp_path: Path) -> None:
    run = logged([report(tmp_path, found("XYZ001"), found("SEC001"))], Page(workspace=tmp_path))
    rules = {each["id"]: each for each in run["tool"]["driver"]["rules"]}
    assert list(rules) == ["CFG001", "SEC001", "XYZ001"]
    assert rules["SEC001"]["properties"] == {
        "precision": "high", "tags": ["adapter", "security"], "security-severity": "5.0",
    }  # fmt: skip
    assert "security-severity" not in rules["CFG001"]["properties"]
    assert rules["CFG001"]["defaultConfiguration"] == {"level": "error"}
    assert rules["CFG001"]["helpUri"].endswith("#cfg001")
    assert rules["XYZ001"].keys() == {"id", "properties"}


def test_skipped_checks_are_told(tmp_path: Path) -> None:
    held = [report(tmp_path / name, skipped=("BAS001: no base",)) for name in "ab"]
    (invocation,) = logged(held, Page(workspace=tmp_path))["invocations"]
    assert invocation["toolExecutionNotifications"] == [{
        "level": "note", "message": {"text": "Skipped in 2 adapters: no base"},
        "associatedRule": {"id": "BAS001"},
    }]  # fmt: skip


def test_fingerprints(tmp_path: Path) -> None:
    def of(*findings: Any, name: str = "a") -> list[str]:
        return prints(logged([report(tmp_path / name, *findings)], Page(workspace=tmp_path)))

    (one,) = of(found())
    assert re.fullmatch(r"[0-9a-f]{64}:1", one)
    assert of(found(line=99, text="Other words.", hint="")) == [one], "code, path and place decide"
    others = [of(found(), name="b"), of(found("SEC001")), of(found(pointer="/q")),
              of(found(file="x.json")), of(found(pointer="", tensor="t"))]  # fmt: skip
    assert len({one, *(each for (each,) in others)}) == 6
    twice = of(found(), found())
    assert twice == [one, one.replace(":1", ":2")], "equal ones are told apart by their number"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str, tmp_path: Path) -> None:
    plain = name.replace("\0", "")
    held = found(text=name, hint=name, file=plain, pointer=name)
    run = logged([report(tmp_path, held, skipped=(f"SEC001: {name}",))], Page(workspace=tmp_path))
    (result,) = run["results"]
    text = result["message"]["text"]
    assert text.isprintable()
    assert not re.search(r"\[[^]]*\]\(", text), "a link"
    assert not re.search(r"(?<!\{)(\{\{)*\{(?!\{)", text), "a placeholder"
    (place,) = result["locations"]
    uri = place["physicalLocation"]["artifactLocation"]["uri"]
    split = urlsplit(uri)
    assert (split.scheme, split.netloc, split.query, split.fragment) == ("", "", "", "")
    assert unquote(uri, errors="surrogatepass") == plain
    assert place["logicalLocations"][0]["fullyQualifiedName"].isprintable()


def test_outside_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    run = logged([report(tmp_path / "a", found())], Page(workspace=tmp_path / "inner"))
    (place,) = run["results"][0]["locations"]
    assert place["physicalLocation"]["artifactLocation"] == {
        "uri": (tmp_path / "a" / "adapter_config.json").as_uri()
    }


def test_there_are_no_more_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MOST", 3)
    mild = [found("WGT001", "note") for _ in range(5)]
    run = logged([report(tmp_path, *mild, found())], Page(workspace=tmp_path))
    assert [each["level"] for each in run["results"]] == ["error", "note", "note"]
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert notes[-1]["message"]["text"] == "3 of 6 results are left out; the worst are here."


def test_an_empty_run(tmp_path: Path) -> None:
    assert logged([], Page(workspace=tmp_path))["results"] == []
