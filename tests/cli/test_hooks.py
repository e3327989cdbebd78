"""The hook of pre-commit and the action of GitHub: both end in a command that we have."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from adaptertools.cli import COMMANDS
from adaptertools.cli.validate import command

ROOT = Path(__file__).parents[2]


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def parsed(words: list[str]) -> dict[str, Any]:
    """Give what the command line makes of words; an option that is none would be refused."""
    return dict(command.make_context("validate", list(words)).params)


def test_the_hook_is_a_command_of_ours() -> None:
    (hook,) = loaded(".pre-commit-hooks.yaml")
    program, verb, *options = hook["entry"].split()
    assert program == "adaptertools"
    assert verb in COMMANDS
    assert parsed([*options, "a/adapter_config.json"])["paths"] == ("a/adapter_config.json",)
    assert hook["language"] == "python"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("adapter_config.json", True), ("a/b/adapter_config.json", True),
        ("a/adapter_model.safetensors", True), ("a/adapter_model.bin", True),
        ("a/my_adapter_config.json", False), ("adapter_config.json.txt", False),
        ("a/adapter_configXjson", False),
    ],
)  # fmt: skip
def test_the_hook_looks_at_the_files_of_adapters(path: str, wanted: bool) -> None:
    (hook,) = loaded(".pre-commit-hooks.yaml")
    assert bool(re.search(hook["files"], path)) is wanted


def test_the_action_puts_no_input_into_its_script() -> None:
    action = loaded("action.yml")
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"]
        given = set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", json.dumps(step["env"])))
        assert given == set(action["inputs"])
        assert all(f"${name}" in step["run"] for name in step["env"])
    assert all(each["description"] for each in action["inputs"].values())


def ran(tmp_path: Path, **inputs: str) -> list[str]:
    """Run the script of the action as GitHub does, with a pipx that writes down its arguments."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    action = loaded("action.yml")
    (step,) = action["runs"]["steps"]
    pipx = tmp_path / "bin" / "pipx"
    pipx.parent.mkdir()
    pipx.write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n", "utf-8"
    )
    pipx.chmod(0o755)
    env = {"PATH": f"{pipx.parent}{os.pathsep}{os.environ['PATH']}", "ACTION_PATH": "/action"}
    for name, each in action["inputs"].items():
        env["INPUT_" + name.upper().replace("-", "_")] = inputs.get(name, each["default"])
    done = subprocess.run(
        [bash, "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return list(json.loads(done.stdout))


def test_the_action_as_it_is(tmp_path: Path) -> None:
    assert ran(tmp_path) == [
        "run", "--spec", "/action", "adaptertools", "validate", "--format", "github", "--", ".",
    ]  # fmt: skip


def test_the_action_with_everything(tmp_path: Path) -> None:
    words = ran(
        tmp_path, paths="a b\n\n*\n--deep\n", target="vllm", base="org/base", sarif="out x.sarif",
        version="1.2.3", args="--deep\n--ignore\nCRD\n", **{"fail-on": "warning"},
    )  # fmt: skip
    assert words[:5] == ["run", "--spec", "adaptertools==1.2.3", "adaptertools", "validate"]
    said = parsed(words[5:])
    assert said["paths"] == ("a b", "*", "--deep")
    assert (said["target"], said["base"], said["fail_on"]) == ("vllm", "org/base", "warning")
    assert (said["deep"], said["ignore"]) == (True, ("CRD",))
    assert said["outputs"] == [("github", "-"), ("sarif", "out x.sarif")]


@pytest.mark.parametrize(
    "text", ["$(touch evil)", "`touch evil`", '"; touch evil; "', "a;touch evil"]
)
def test_inputs_of_the_action_are_not_run(text: str, tmp_path: Path) -> None:
    words = ran(tmp_path, paths=text, target=text, base=text, sarif=text, args=text, version=text)
    assert words[-1] == text
    assert words[2] == f"adaptertools=={text}"
    assert not (tmp_path / "evil").exists()


def test_an_option_that_is_none_would_be_seen() -> None:
    with pytest.raises(click.UsageError):
        parsed(["--no-data", "a"])
