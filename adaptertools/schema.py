"""The JSON Schemas that adaptertools ships, and the only door to jsonschema."""

from __future__ import annotations

import json
import re
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
    if surely_fits(schema, value):
        return
    for error in _strict()(schema).iter_errors(value):
        steps = (str(step).replace("~", "~0").replace("/", "~1") for step in error.absolute_path)
        pointer = "".join(f"/{step}" for step in steps)
        rule = str(error.validator)
        yield Difference(pointer, rule, error.validator_value, error.instance, error.schema)


# JSON's types as Python has them; True and False are instances of int, and no numbers.
_TYPES = {
    "array": (list,), "boolean": (bool,), "integer": (int,), "null": (type(None),),
    "number": (int, float), "object": (dict,), "string": (str,),
}  # fmt: skip
_ABOUT = frozenset({"title", "description", "default", "examples", "$schema", "$comment", "type",
                    "x-since", "x-until"})  # fmt: skip


def surely_fits(schema: Mapping[str, Any], value: object) -> bool:
    """Tell whether a value fits a schema beyond doubt, in a tenth of jsonschema's time.

    False says nothing: it only knows what nearly every config is made of.
    """
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if kinds and not any(type(value) in _TYPES[kind] for kind in kinds):
        return False
    return all(_kept(key, rule, value, schema) for key, rule in schema.items() if key not in _ABOUT)


def _kept(key: str, rule: Any, value: Any, schema: Mapping[str, Any]) -> bool:
    """Tell whether a value surely keeps one rule."""
    if key in ("enum", "const"):
        known = rule if key == "enum" else [rule]
        return any(type(each) is type(value) and each == value for each in known)
    if key == "pattern":
        return not isinstance(value, str) or re.search(rule, value) is not None
    if key in ("minimum", "maximum"):
        number = type(value) in _TYPES["number"]
        return not number or (value >= rule if key == "minimum" else value <= rule)
    if key == "items":
        items = value if isinstance(value, list) else []
        single = isinstance(rule, dict)  # a list of schemas is one for each place
        return not items or (single and all(surely_fits(rule, item) for item in items))
    if not isinstance(value, dict):
        return key in ("properties", "additionalProperties", "required")
    if key == "required":
        return all(name in value for name in rule)
    known = schema.get("properties", {})
    if key == "properties":
        return all(surely_fits(known[name], item) for name, item in value.items() if name in known)
    others = [item for name, item in value.items() if name not in known]
    inner = rule if isinstance(rule, dict) else {"not": {}}
    return key == "additionalProperties" and all(surely_fits(inner, item) for item in others)


@cache
def _strict() -> Any:
    import jsonschema

    plain = jsonschema.Draft7Validator

    def whole(_: object, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    checker = plain.TYPE_CHECKER.redefine("integer", whole)
    return jsonschema.validators.extend(plain, type_checker=checker)  # type: ignore[no-untyped-call]
