"""`adaptertools ls`: the table of methods, and what else there is."""

import json

import pytest
from click.testing import CliRunner

from adaptertools import plugins, schema
from adaptertools.checks import catalogue
from adaptertools.cli import app
from adaptertools.errors import NotFound
from adaptertools.methods._refused import REFUSED
from adaptertools.verbs.ls import ROOMS, ls
from tests.formats.make_table import FILE, table, written

METHODS = {name.upper() for name in plugins.names("methods")}


def run(*args: str) -> str:
    done = CliRunner().invoke(app, ["ls", *args], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("room", ROOMS)
def test_json_is_what_the_schema_describes(room: str) -> None:
    found = json.loads(run(room, "--json"))
    schema.check("ls", found)
    assert found == ls(room).as_json()
    names = [entry["name"] for entry in found["entries"]]
    assert names == sorted(set(names)) != []
    assert all(entry["title"] or not entry.get("merges", True) for entry in found["entries"])


@pytest.mark.parametrize("room", ROOMS)
def test_one_name_on_a_line(room: str) -> None:
    assert run(room, "-q").split() == [entry["name"] for entry in ls(room).entries]


def test_methods_say_why_and_what_else() -> None:
    entries = {entry["name"]: entry for entry in ls("methods").entries}
    assert entries.keys() == METHODS | REFUSED.keys()
    for name, entry in entries.items():
        assert entry["merges"] == (name in METHODS) == (not entry["why"])
        assert entry["lora"]
        assert entry["paper"].startswith("https://") or name in REFUSED or not entry["paper"]
    assert entries["XLORA"]["why"].startswith("a classifier weighs its LoRAs for each token. ")
    assert entries["MISS"]["paper"] == "https://arxiv.org/abs/2409.15371"


def test_methods_read_well() -> None:
    text = run("methods")
    assert "merged: no: a router mixes its up projections for each token. Serve it" in text
    assert "as LoRA: exactly, at rank k·r + hybrid_r" in text
    assert max(map(len, text.splitlines())) <= 100


def test_formats_say_what_they_hold_and_who_proved_it() -> None:
    entries = {entry["name"]: entry for entry in ls("formats").entries}
    assert entries.keys() == set(plugins.names("formats"))
    for entry in entries.values():
        assert entry["reads"] or entry["writes"]
        assert bool(entry["lacks"]) == entry["writes"]
        assert entry["proved"]
    both = {name: (entry["reads"], entry["writes"]) for name, entry in entries.items()}
    assert both["gguf"] == (True, True)
    assert both["plain"] == (False, True)
    assert both["torchtune"] == (True, False)
    text = run("formats")
    assert "proved with: mlx-lm 0.32.2" in text
    assert "cannot hold: biases of lora_B, convolutions" in text
    assert max(map(len, text.splitlines())) <= 100


def test_readme_has_the_table_of_formats() -> None:
    text = FILE.read_text("utf-8")
    assert table() in text, "run python -m tests.formats.make_table"
    assert written(text) == text


def test_checks_are_all_there() -> None:
    assert [entry["name"] for entry in ls("checks").entries] == sorted(catalogue())


def test_another_room() -> None:
    with pytest.raises(NotFound, match=r"no list of \\x1bx\. There are methods, formats"):
        ls("\x1bx")
    assert CliRunner().invoke(app, ["ls", "rooms"]).exit_code == 2
