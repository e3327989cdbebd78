"""What the command writes of real folders, against the schemas that SARIF and JUnit have of others.

The tests of each format hold every log that they make against the same schemas.
"""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from adaptertools.cli import app
from tests.cli.reports import official

EXAMPLES = Path(__file__).parents[1] / "checks" / "examples"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validate every example of a check, good and bad."""
    folder = tmp_path_factory.mktemp("written")
    formats = [f"--format={name}={folder / name}" for name in ("sarif", "junit")]
    done = CliRunner().invoke(app, ["validate", str(EXAMPLES), "--isolated", *formats])
    assert done.exit_code in (0, 1, 2), done.output
    return folder


def test_sarif(written: Path) -> None:
    log = json.loads((written / "sarif").read_text("utf-8"))
    assert len(log["runs"][0]["results"]) > 100
    validator = official.sarif()
    if validator is None:
        pytest.skip(f"SARIF's schema was {official.ABSENT}")
    validator.validate(log)
    rejects(validator.is_valid, log)


def rejects(valid: Any, log: Any) -> None:
    """Show that the oracle would say no."""
    assert not valid({**log, "version": "2.0.0"})
    assert not valid({**log, "runs": [{**log["runs"][0], "result": []}]})


def test_junit(written: Path) -> None:
    text = (written / "junit").read_bytes()
    root = ElementTree.fromstring(text)
    assert len(root) > 100
    validator = official.junit()
    if validator is None:
        pytest.skip(f"JUnit's schema was {official.ABSENT}, or xmlschema is not installed")
    validator.validate(text)
    root[0].set("odd", "1")
    assert not validator.is_valid(ElementTree.tostring(root))
