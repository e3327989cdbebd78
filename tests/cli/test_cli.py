"""Help, version, words and JSON: what the command line prints, and what it does not import."""

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

import adaptertools as at
from adaptertools import schema
from adaptertools.cli import COMMANDS, app
from adaptertools.version import VERSION
from tests.cli import merge, run

HEAVY = ("torch", "numpy", "transformers", "huggingface_hub", "jsonschema", "rich", "ml_dtypes")


def commands() -> dict[str, click.Command]:
    return {name: import_module(f"adaptertools.cli.{name}").command for name in COMMANDS}


def heavy_after(*args: object) -> tuple[str, set[str]]:
    """Run the program in a new interpreter; give its output and the heavy modules it loaded."""
    code = (
        "import sys\n"
        "from adaptertools.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        f"print('loaded', *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=True,
        cwd=Path(at.__file__).parents[1],
    )  # fmt: skip
    said, _, loaded = done.stdout.rpartition("loaded")
    return said, set(loaded.split())


def test_help() -> None:
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: ")
    assert run("-h").out == done.out
    for name in COMMANDS:
        assert f"\n  {name} " in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str) -> None:
    done = run(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert run(name, "-h").out == done.out
    assert COMMANDS[name].split()[0] in done.out
    for option in commands()[name].params:
        assert option.opts[-1].lstrip("-") in done.out.lower()


def test_every_option_is_explained() -> None:
    for name, command in commands().items():
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.opts[0]}"
                assert option.help.endswith("."), f"{name} {option.opts[0]}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_static_line_is_the_commands_own(name: str) -> None:
    command = commands()[name]
    assert command.name in (name, "command")
    assert inspect.getdoc(command.callback).splitlines()[0] == COMMANDS[name]
    assert command.get_short_help_str(limit=200).rstrip(".") == COMMANDS[name].rstrip(".")


def test_the_commands_are_the_files() -> None:
    files = {path.stem for path in Path(sys.modules[app.__module__].__file__).parent.glob("*.py")}
    assert {name for name in files if not name.startswith("_")} == COMMANDS.keys()


def test_options_are_spelled_as_the_library_spells_them() -> None:
    options = {option.name for option in commands()["merge"].params}
    planned = set(inspect.signature(at.plan).parameters)
    merged = set(inspect.signature(at.merge).parameters) - {"map", "progress", "options"}
    assert options == planned | merged | {"dry_run", "as_json", "quiet", "plot"}


def test_version() -> None:
    done = run("--version")
    assert (done.code, done.out, done.err) == (0, f"adaptertools, version {VERSION}\n", "")


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adaptertools", "inspect", "/no/such/folder"],
        capture_output=True, text=True, cwd=Path(at.__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: /no/such/folder: no such folder")


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["merge", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    said, loaded = heavy_after(*args)
    assert said
    assert loaded == set()


def test_a_dry_run_imports_nothing_heavy(street: Path) -> None:
    args = ("merge", street / "adapter", "--base", street / "base", "--out", street / "out")
    said, loaded = heavy_after(*args, "--dry-run")
    assert "plan" in said
    assert loaded == set()


def test_a_merge_imports_no_models(street: Path) -> None:
    args = ("merge", street / "adapter", "--base", street / "base", "--out", street / "out")
    _, loaded = heavy_after(*args, "--verify")
    assert loaded == {"numpy", "ml_dtypes"}


def test_dry_run_writes_nothing_and_says_what_it_would(street: Path) -> None:
    before = sorted(street.rglob("*"))
    done = merge(street, "{f}/adapter --base {f}/base --out {f}/out --dry-run")
    assert (done.code, done.err) == (0, "")
    assert "model.safetensors" in done.out
    assert "4 of 11 tensors change" in done.out
    assert "low-rank r=2 s=2" in done.out
    done = merge(street, "{f}/adapter --base {f}/base --out {f}/out --dry-run --json")
    value = json.loads(done.out)
    schema.check("plan", value)
    assert value == json.loads(json.dumps(planned(street).as_json()))
    assert sorted(street.rglob("*")) == before


def planned(folder: Path) -> at.MergePlan:
    return at.plan(str(folder / "adapter"), base=str(folder / "base"), out=str(folder / "out"))


def test_merge_and_verify_in_words(street: Path) -> None:
    done = merge(street)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{street / 'out'}: merge done\n")
    assert "4 tensors changed" in done.out
    done = run("verify", street / "out")
    assert (done.code, done.err) == (0, "")
    assert "7 tensors equal" in done.out
    assert "4 by random probes, 0 wrong" in done.out


def test_merge_and_verify_in_json(street: Path) -> None:
    done = merge(street, "{f}/adapter --base {f}/base --out {f}/out --verify --json --quiet")
    assert (done.code, done.err) == (0, "")
    value = json.loads(done.out)
    schema.check("report", value)
    assert (value["ok"], value["facts"]["verified"]["wrong"]) == (True, 0)
    assert value["facts"]["digest"] == planned_digest(street)
    done = run("verify", street / "out", "--json")
    value = json.loads(done.out)
    schema.check("report", value)
    assert (done.code, value["verb"], value["ok"]) == (0, "verify", True)


def planned_digest(folder: Path) -> str:
    return str(json.loads((folder / "out" / "adaptertools.json").read_text("utf-8"))["digest"])


def test_quiet_says_nothing(street: Path) -> None:
    for done in (
        merge(street, "{f}/adapter --base {f}/base --out {f}/out --quiet"),
        run("verify", street / "out", "-q"),
    ):
        assert (done.code, done.out, done.err) == (0, "", "")


def test_options_reach_the_merge(street: Path) -> None:
    args = "{f}/adapter {f}/adapter --base {f}/base --out {f}/out --scale 0.5 --scale -0.25"
    more = "--dtype bf16 --max-shard-size 700B --tied keep --max-workers 1 --json"
    done = merge(street, f"{args} {more}")
    assert done.code == 0, done.err
    receipt = json.loads((street / "out" / "adaptertools.json").read_text("utf-8"))
    assert [adapter["scale"] for adapter in receipt["adapters"]] == [0.5, -0.25]
    assert receipt["options"].items() >= {
        "dtype": "bf16", "max_shard_size": 700, "tied": "keep", "mha_out_proj": None,
        "allow_nonfinite": False, "quant": "keep", "rounding": None, "seed": 0,
    }.items()  # fmt: skip
    assert len(list((street / "out").glob("model-*.safetensors"))) > 1


def test_closed_pipe_is_no_error(street: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"'{sys.executable}' -m adaptertools inspect '{street}/adapter' | true"],
        capture_output=True, text=True, cwd=Path(at.__file__).parents[1],
    )  # fmt: skip
    assert done.stderr == ""
