"""The architecture, held as assertions (see the docstring of adaptertools/__init__.py)."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools import errors, plugins
from adaptertools.cli import COMMANDS

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "adaptertools").rglob("*.py"))
HEAVY = ("torch", "numpy", "transformers", "peft", "huggingface_hub", "jsonschema", "ml_dtypes")
JUNK = {"utils", "util", "common", "helpers", "helper", "misc", "other"}


def loaded_after(code: str) -> set[str]:
    """Give the heavy modules that are loaded once the code has run in a fresh interpreter."""
    report = f"{code}; import sys; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import adaptertools, adaptertools.cli",
        "from adaptertools import Adapter, MergePlan, open, inspect, plan, merge, verify",
        "from click.testing import CliRunner; from adaptertools.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_doors_stay_shut(code: str) -> None:
    assert loaded_after(code) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 250, "is it one room or two?"
    assert path.stem not in JUNK
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{node.name} is too long"


def test_proportions() -> None:
    modules = sorted(path.read_text("utf-8").count("\n") for path in SOURCES)
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    )
    assert modules[len(modules) // 2] <= 100
    assert lengths[len(lengths) // 2] <= 9


def test_public_names_are_pinned() -> None:
    assert sorted(at.__all__) == [
        "Adapter", "Comparison", "Finding", "Inspection", "MergePlan", "Report", "__version__",
        "compare", "convert", "demo", "download", "errors", "extract", "inspect", "merge", "open",
        "plan", "resize", "save", "search", "smoke", "stack", "upload", "validate", "verify",
    ]  # fmt: skip
    for name in at.__all__:
        first, second = getattr(at, name), getattr(at, name)
        assert first is second, f"{name} changes once a module of that name is imported"
        assert name in dir(at)
    with pytest.raises(AttributeError):
        _ = at.nonsense


def test_public_functions_are_typed_and_documented() -> None:
    for name in sorted(set(at.__all__) - {"__version__", "errors"}):
        if isinstance(getattr(at, name), type):
            continue
        function = getattr(at, name)
        assert function.__doc__
        assert "Raises" in function.__doc__
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_no_top_level_module_shadows_a_public_name() -> None:
    files = {path.stem for path in (ROOT / "adaptertools").glob("*.py")}
    assert files & set(at.__all__) == {"errors"}


def test_every_error_is_ours_and_a_standard_one() -> None:
    tree = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.AdapterToolsError)
        and kind is not errors.AdapterToolsError
    ]
    assert len(tree) == 9 - 1
    for kind in tree:
        assert len(set(kind.__mro__) - {kind, errors.AdapterToolsError, object}) >= 2
        assert str(kind("what happened")) == "what happened"
        assert kind.__name__ in errors.__doc__


def test_plugins_are_the_files_of_their_room() -> None:
    for room in ("formats", "methods", "blends"):
        names = plugins.names(room)
        assert names
        for name in names:
            module = plugins.load(room, name)
            assert module.__doc__
        assert plugins.load(room, "os") is None
        assert plugins.load(room, "../errors") is None


def test_commands_are_documented() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"adaptertools {name}" in readme


def test_changelog_has_an_unreleased_part() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in text
    versions = re.findall(r"^## \[(\d+)\.(\d+)\.(\d+)\]", text, re.MULTILINE)
    assert all(tuple(map(int, a)) > tuple(map(int, b)) for a, b in pairwise(versions))


def test_nothing_of_a_machine_or_a_registry_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    wrong = re.compile(r"/(?:wor[k]|hom[e]|root)/[\w-]+/|pypi\.or[g]|hf_[A-Za-z0-9]{30}")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".json", ".yml", ""):
            assert not wrong.search(path.read_text("utf-8")), name


def test_schemas_are_found_and_are_json() -> None:
    from adaptertools import schema

    files = sorted(schema.folder().glob("*.schema.json"))
    assert files
    for file in files:
        assert json.loads(file.read_text("utf-8"))["$schema"].startswith("http://json-schema.org")
