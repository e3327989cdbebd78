"""The file name is the registration, and a stranger's name imports nothing."""

import sys
from pathlib import Path

import pytest

import adaptertools
from adaptertools import plugins

ROOMS = ("formats", "methods")


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_of_a_room_is_a_plug_in(room: str) -> None:
    folder = Path(adaptertools.__file__).parent / room
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert set(plugins.names(room)) == files != set()
    for name in files:
        module = plugins.load(room, name)
        assert module is not None
        assert module.__name__ == f"adaptertools.{room}.{name}"


def test_names_are_sorted_and_private_files_are_none() -> None:
    assert plugins.names("methods") == tuple(sorted(plugins.names("methods")))
    assert "_keys" not in plugins.names("formats")
    assert plugins.names("no_such_room") == ()


@pytest.mark.parametrize(
    "name", ["", "nonsense", "_keys", "__init__", "lora.py", "../errors", "..errors", "os", "LORA"]
)
def test_a_name_from_a_config_imports_nothing_else(name: str) -> None:
    before = set(sys.modules)
    assert plugins.load("methods", name) is None
    assert plugins.load("formats", name) is None
    assert set(sys.modules) == before
