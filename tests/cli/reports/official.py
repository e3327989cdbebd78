"""The schemas that SARIF and JUnit have of others: fetched once, they are not ours to commit.

    python -m tests.cli.reports.official

writes them to `.schemas/` of the checkout, by npm and pip: SARIF 2.1.0 out of Microsoft's
sarif-multitool-ts (no package for Python carries it), and the XSD of Jenkins' JUnit reader out of
pytest's own tests, which only its sdist has. Tests hold every log that they write against them, and
say so where they are not there.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = Path(__file__).parents[3] / ".schemas"
ABSENT = "not fetched: python -m tests.cli.reports.official"
# File -> what fetches its archive, where it lies in there, and its SHA-256.
FILES = {
    "sarif-2.1.0.schema.json": (
        ["npm", "pack", "--silent", "@microsoft/sarif-multitool-ts@5.7.0"],
        "package/assets/sarif-2.1.0.schema.json",
        "1c49a0f2b60444c71bb14878e21e0d882198eff4c539861b133093ad89ed798c",
    ),
    "junit-10.xsd": (
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pytest",
         "pytest==9.2.0"],
        "pytest-9.2.0/testing/example_scripts/junit-10.xsd",
        "a1a816f58d1bf95ebabf371994df0b9246dee66ea9572fbec4f9296f1b2c0ff6",
    ),
}  # fmt: skip
SARIF, JUNIT = (FOLDER / name for name in FILES)


@cache
def sarif() -> Any:
    """Give a validator of SARIF logs; None where there is no schema."""
    import jsonschema

    if not SARIF.is_file():
        return None
    schema = json.loads(SARIF.read_text("utf-8"))
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


@cache
def junit() -> Any:
    """Give a validator of JUnit reports; None where there is no schema, or none to read it."""
    try:
        import xmlschema
    except ImportError:
        return None
    return xmlschema.XMLSchema(JUNIT) if JUNIT.is_file() else None


def fetch(name: str) -> None:
    """Fetch one schema, unless what comes is another than it was."""
    command, place, digest = FILES[name]
    with TemporaryDirectory() as work:
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(work).iterdir()
        with tarfile.open(archive) as held:
            file = held.extractfile(place)
            assert file is not None
            data = file.read()
    assert hashlib.sha256(data).hexdigest() == digest, f"{name} is not what it was"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    for each in FILES:
        fetch(each)
