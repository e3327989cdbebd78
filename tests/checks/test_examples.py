"""Every check has an example that it finds fault with, and one that it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from adaptertools.checks import catalogue
from adaptertools.report import Report
from adaptertools.verbs._gather import gather
from adaptertools.verbs.validate import judge

EXAMPLES = Path(__file__).with_name("examples")
CODES = sorted(catalogue())


def validated(folder: Path) -> Report:
    """Validate an example with the options that it brings."""
    file = folder / "options.json"
    options: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if "base" in options:
        options["base"] = folder / options["base"]
    if "online" in options:
        answers = options["online"]
        options["online"] = answers.__getitem__
    if "scan" in options:
        facts = replace(gather(folder), scan=options["scan"])
        return judge(facts, list(catalogue().values()), {})
    report: Report = at.validate(folder, **options)
    return report


@pytest.mark.parametrize("code", CODES)
def test_the_bad_one_is_caught(code: str) -> None:
    report = validated(EXAMPLES / f"{code}-bad")
    assert code in {finding.code for finding in report.findings}


@pytest.mark.parametrize("code", CODES)
def test_the_good_one_passes(code: str) -> None:
    report = validated(EXAMPLES / f"{code}-good")
    assert code not in {finding.code for finding in report.findings}
    assert code in report.facts["checks_run"], "it was skipped, which shows nothing"


def test_no_example_is_left_over() -> None:
    named = {folder.name.rpartition("-")[0] for folder in EXAMPLES.iterdir()}
    assert named == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_it_explains_itself(code: str) -> None:
    check = catalogue()[code]
    assert len(check.explanation) > 40
    assert check.title
    assert check.fix.endswith(".")
