"""The JSON Schemas that adaptertools ships, and the only door to jsonschema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adaptertools.errors import NotFound, Unreadable, shown

_HERE = Path(__file__).parent


def folder() -> Path:
    """Give the folder of the schemas: the wheel's, or the repository's for editable installs."""
    inside = _HERE / "schemas"
    return inside if inside.is_dir() else _HERE.parent / "schemas"


def names(inside: str = "") -> list[str]:
    """List the schemas of the folder, or of one inside it, without `.schema.json`."""
    return sorted(
        path.name.removesuffix(".schema.json") for path in (folder() / inside).glob("*.schema.json")
    )


@cache
def load(name: str) -> dict[str, Any]:
    """Read one schema by name, without `.schema.json`; raise NotFound where there is none."""
    path = folder() / f"{name}.schema.json"
    if not path.is_file():
        known = ", ".join(names())
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


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where a JSON value differs from its schema."""

    pointer: str  # RFC 6901
    keyword: str  # the rule that is broken: "type", "minimum" …
    rule: Any  # what the rule says
    value: Any  # what stands there
    schema: Mapping[str, Any]  # of that place


def differences(schema: Mapping[str, Any], value: object) -> Iterator[Difference]:
    """Give every place where a value differs from a schema that stands for itself.

    Stricter than the standard in one thing: 8.0 is no integer, as it is none to Python.
    """
    for error in _strict()(schema).iter_errors(value):
        steps = (str(step).replace("~", "~0").replace("/", "~1") for step in error.absolute_path)
        pointer = "".join(f"/{step}" for step in steps)
        rule = str(error.validator)
        yield Difference(pointer, rule, error.validator_value, error.instance, error.schema)


@cache
def _strict() -> Any:
    import jsonschema

    plain = jsonschema.Draft7Validator

    def whole(_: object, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    checker = plain.TYPE_CHECKER.redefine("integer", whole)
    return jsonschema.validators.extend(plain, type_checker=checker)  # type: ignore[no-untyped-call]
