"""validate on the command line: what it looks at, how it says it, and what it exits with."""

import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest

import adaptertools as at
from adaptertools import errors, schema
from adaptertools.report import Finding, Level, Report
from tests.checks import tiny
from tests.cli import Outcome, run
from tests.cli.test_cli import heavy_after

Verb = Callable[..., Report]


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, as on no build."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_WORKSPACE", "GITHUB_STEP_SUMMARY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "good")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    folder = tiny.adapter(tmp_path / "bad")
    tiny.set_config(folder, r=0)
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, *levels: Level) -> list[dict[str, Any]]:
    """Let validate find one thing of each level; give the options that it gets, call by call."""
    calls: list[dict[str, Any]] = []

    def validate(thing: Path | str, **how: Any) -> Report:
        calls.append({"thing": thing, **how})
        every = [Finding(code="CFG001", level=each, place="", text=f"an {each}") for each in levels]
        facts = {"dialect": "peft", "checks_run": ["CFG001"], "summary": {}}
        return Report(verb="validate", subject=str(thing), findings=tuple(every), facts=facts)

    monkeypatch.setattr(at, "validate", validate)
    return calls


def assert_usage(done: Outcome, *words: str) -> None:
    """Demand exit code 2, nothing on stdout and a sentence with these words."""
    assert (done.code, done.out) == (2, ""), done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.isprintable()
    for word in words:
        assert word in last


def test_a_good_one(good: Path) -> None:
    done = run("validate", good)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("1 adapter: ")


def test_a_bad_one(bad: Path) -> None:
    done = run("validate", "bad")
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith("bad (peft): ")
    assert any(
        line.startswith("bad/adapter_config.json:") and " error " in line
        for line in done.out.splitlines()
    )


def test_a_tree(good: Path, bad: Path) -> None:
    done = run("validate", ".", "--json")
    value = json.loads(done.out)
    schema.check("validation", value)
    assert done.code == 1
    assert {each["subject"]: each["ok"] for each in value["adapters"]} == {
        "bad": False, "good": True,
    }  # fmt: skip
    assert all(each["checks_run"] and each["checks_skipped"] for each in value["adapters"])


def test_a_folder_without_a_config_does_not_pass(good: Path) -> None:
    (good / tiny.CONFIG_FILE).unlink()
    assert run("validate", good).code == 1


@pytest.mark.parametrize(
    ("levels", "codes"),
    [((), "0000"), (("note",), "0010"), (("warning",), "0110"), (("note", "error"), "1110")],
)
def test_exit_codes(
    levels: tuple[Level, ...], codes: str, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, *levels)
    for fail_on, code in zip(("error", "warning", "note", "never"), codes, strict=True):
        assert run("validate", good, "--fail-on", fail_on).code == int(code)
    assert run("validate", good).code == int(codes[0])


def test_every_option_reaches_the_verb(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch)
    words = ("validate good --base b --deep --target vllm --peft-version 0.9.0 --select WGT,SEC "
             "--select CFG001 --ignore SEC003 --severity WGT014=error --strict")  # fmt: skip
    assert run(*words.split()).code == 0
    assert calls == [{
        "thing": Path("good"), "base": "b", "deep": True, "target": "vllm",
        "peft_version": "0.9.0", "select": ("WGT", "SEC", "CFG001"), "ignore": ("SEC003",),
        "severity": {"WGT014": "error"}, "strict": True, "online": None,
        "revision": None, "token": None,
    }]  # fmt: skip
    run("validate", "good", "--online")
    assert callable(calls[1]["online"])


def test_options_are_spelled_as_the_library_spells_them() -> None:
    options = {option.name for option in import_module("adaptertools.cli.validate").command.params}
    own = {"paths", "fail_on", "outputs", "as_json", "isolated", "verbose", "quiet"}
    assert options == own | set(inspect.signature(at.validate).parameters) - {"thing"}


SETTINGS = """
[tool.adaptertools]
select = ["WGT"]
ignore = ["SEC003"]
severity = {WGT014 = "error", CFG001 = "note"}
target = "vllm"
strict = true
fail-on = "note"
"""


def test_settings(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(SETTINGS, "utf-8")
    calls = pretend(monkeypatch, "note")
    done = run("validate", good)
    assert done.code == 1
    assert done.err.startswith("Settings of ")
    assert "ignore SEC003" in done.err
    assert run("validate", good, "-q").err == ""
    words = "--select CFG --severity CFG001=error --target mlx --no-strict --fail-on error"
    assert run("validate", good, *words.split()).code == 0
    done = run("validate", good, "--isolated")
    assert (done.code, done.err) == (0, "")
    set_ = {"select": ("WGT",), "ignore": ("SEC003",), "target": "vllm", "strict": True,
            "severity": {"WGT014": "error", "CFG001": "note"}}  # fmt: skip
    assert calls[0].items() >= set_.items()
    given = {"select": ("CFG",), "ignore": ("SEC003",), "target": "mlx", "strict": False,
             "severity": {"WGT014": "error", "CFG001": "error"}}  # fmt: skip
    assert calls[2].items() >= given.items()
    assert not any(calls[3][key] for key in set_)


def test_several_formats_at_once(good: Path, bad: Path, tmp_path: Path) -> None:
    files = ("sarif=s.json", "junit=j.xml", "text=t.txt", "jsonl=l.jsonl", "json=o.json")
    options = [word for each in ("github", *files) for word in ("--format", each)]
    done = run("validate", ".", *options)
    assert done.code == 1
    assert all(line.startswith("::") for line in done.out.splitlines())
    assert "::error file=bad/adapter_config.json" in done.out
    value = json.loads((tmp_path / "o.json").read_text("utf-8"))
    lines = (tmp_path / "l.jsonl").read_text("utf-8").splitlines()
    results = json.loads((tmp_path / "s.json").read_text("utf-8"))["runs"][0]["results"]
    suites = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert len(lines) == len(suites) == value["summary"]["adapters"] == 2
    counted = sum(value["summary"][level] for level in ("error", "warning", "note"))
    assert len(results) == counted
    assert "\x1b" not in (tmp_path / "t.txt").read_text("utf-8")


def test_paths_start_at_the_workspace(
    bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.chdir(bad)
    assert " file=bad/adapter_config.json," in run("validate", ".", "--format", "github").out
    assert "bad/adapter" in (tmp_path / "summary.md").read_text("utf-8").replace("&#95;", "_")


USAGE = {
    "nothing": ("", ("PATH",)),
    "unknown format": ("good --format yaml", ("yaml", "junit")),
    "two on stdout": ("good --format json --format sarif", ("stdout", "FORMAT=FILE")),
    "json twice": ("good --json --format github", ("stdout",)),
    "two in a file": ("good --format json=x --format sarif=x", ("x",)),
    "no folder for it": ("good --format json=none/x.json", ("none/x.json", "no such folder")),
    "it is a folder": ("good --format json=good", ("good", "directory")),
    "no level": ("good --severity CFG001=bad", ("CFG001=bad", "error|warning|note")),
    "no code": ("good --severity error", ("error",)),
    "severity of no check": ("good --severity XYZ999=error", ("XYZ999",)),
    "no check": ("good --select XYZ999", ("XYZ999", "CFG")),
    "no family": ("good --ignore XYZ", ("XYZ",)),
    "no target": ("good --target toaster", ("toaster", "vllm")),
    "no base": ("good --base ./none", ("none", "base")),
    "no adapter": ("empty", ("empty", "no adapter_config.json", "nothing to validate")),
    "no path": ("./none", ("none", "no such folder")),
    "no reference": ("a:b", ("a:b", "user/repo")),
    "fail-on": ("good --fail-on all", ("all",)),
    "control characters": ("\x1b[2J", (r"\x1b[2J",)),
}


@pytest.mark.parametrize("case", USAGE)
def test_asked_wrongly(case: str, good: Path) -> None:
    line, words = USAGE[case]
    Path("empty").mkdir()
    assert_usage(run("validate", *line.split()), *words)


def test_bad_settings(good: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.adaptertools]\nsevere = 1\n", "utf-8")
    assert_usage(run("validate", good), "severe", "severity")


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied", "b"), errors.HubError("The Hub is away.")],
    ids=["folder", "hub"],
)
def test_what_cannot_be_read_is_said_and_the_rest_goes_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "error")
    real = at.validate

    def validate(thing: Path, **how: Any) -> Report:
        if thing.name == "b":
            raise error
        return real(thing, **how)

    monkeypatch.setattr(at, "validate", validate)
    for name in "abc":
        tiny.adapter(tmp_path / name)
    done = run("validate", ".", "--format", "jsonl")
    assert done.code == 2, "neither clean nor found at fault"
    assert [json.loads(line)["subject"] for line in done.out.splitlines()] == ["a", "c"]
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "Permission denied" in done.err or "The Hub is away." in done.err


def test_a_bug_is_no_finding(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object, **how: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(at, "validate", crash)
    done = run("validate", good)
    assert (done.code, done.out) == (3, "")
    assert "This is a bug" in done.err


def test_hostile_names_of_folders_stay_on_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "error", "warning")
    tiny.adapter(tmp_path / "x\n::error::forged\x1b[2J")
    for name in ("text", "github", "jsonl", "junit", "sarif"):
        done = run("validate", ".", "--format", name)
        assert done.code == 1
        assert "\x1b" not in done.out
        assert not [line for line in done.out.splitlines() if line.startswith("::error::")], name


@pytest.mark.parametrize("name", ["text", "json", "jsonl", "github", "sarif", "junit"])
def test_it_imports_nothing_heavy(name: str, good: Path) -> None:
    said, loaded = heavy_after("validate", good, "--format", name, "--isolated")
    assert said or name == "github"
    assert loaded <= {"jsonschema"}, "headers need no arrays, and a pipe no colours"


def test_help_says_what_the_exit_codes_are() -> None:
    assert "Exit code 0" in " ".join(run("validate", "--help").out.split())
    assert isinstance(import_module("adaptertools.cli.validate").command, click.Command)
