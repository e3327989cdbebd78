"""The JSON Schemas that adaptertools ships, and the only door to jsonschema."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from adaptertools.errors import NotFound, Unreadable, shown

_HERE = Path(__file__).parent


def folder() -> Path:
    """Give the folder of the schemas: the wheel's, or the repository's for editable installs."""
    inside = _HERE / "schemas"
    return inside if inside.is_dir() else _HERE.parent / "schemas"


@cache
def load(name: str) -> dict[str, Any]:
    """Read one schema by name, without `.schema.json`; raise NotFound where there is none."""
    path = folder() / f"{name}.schema.json"
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(".schema.json") for p in folder().glob("*")))
        raise NotFound(f"There is no schema {shown(name)!r}. Known: {known}.")
    schema: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return schema


def check(name: str, value: object) -> None:
    """Hold a JSON value against a schema; raise Unreadable naming the first place that differs."""
    import jsonschema

    validator = jsonschema.Draft7Validator(load(name))
    error = next(iter(validator.iter_errors(value)), None)
    if error is not None:
        raise Unreadable(f"{name}: {error.json_path}: {shown(error.message)}")
