"""Write schemas/adapter_config/*.schema.json and the schema that dispatches to them.

    python -m tests.schemas.generate_adapter_config [--fields FOLDER]

First history.tsv takes in what the installed PEFT says, if that is not older than what is known;
--fields starts it anew from the tables in FOLDER. What annotations cannot say is overrides.toml's.
Nothing of PEFT is imported, and none of its texts are taken.
"""

from __future__ import annotations

import argparse
import ast
import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.schemas import history, peft_fields
from tests.schemas.history import History, Row

FOLDER = Path(__file__).parents[2] / "schemas"
DRAFT = "http://json-schema.org/draft-07/schema#"
NOTE = "Made by tests/schemas/generate_adapter_config.py; change overrides.toml and run it."
Schema = dict[str, Any]

_SIMPLE = {
    "bool": "boolean", "int": "integer", "float": "number", "str": "string", "dict": "object",
    "list": "array", "List": "array", "None": "null", "Callable": "null",
}  # fmt: skip
_MEMBERS: dict[str, list[Any]] = {"boolean": [True, False], "null": [None], "string": []}


class Generator:
    """Makes schemas of a history and its overrides."""

    def __init__(self, rows: History, overrides: dict[str, dict[str, Schema]]) -> None:
        self.rows = rows
        self.overrides = overrides
        self.used: set[tuple[str, str]] = set()

    def types(self) -> list[Row]:
        """Give the peft_types that ever were."""
        return [
            row
            for (owner, field), row in sorted(self.rows.items())
            if not field and owner.isupper() and not row.annotation
        ]

    def schema(self, row: Row) -> Schema:
        """Give the schema of one peft_type."""
        body = self.object(row.owner)
        body["properties"]["peft_type"] = {"const": row.owner}
        return {
            "$schema": DRAFT, "$comment": NOTE, "title": row.owner,
            "description": f"adapter_config.json of PEFT's method {row.owner}.",
            **window(row), **body, "required": ["peft_type"],
        }  # fmt: skip

    def object(self, owner: str) -> Schema:
        """Give the schema of a config, or of one that is nested in it."""
        own = [row for key, row in sorted(self.rows.items()) if key[0] == owner and key[1]]
        first = min((row.since for row in own), key=history.number)
        properties = {row.field: self.property(row, first) for row in own}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def property(self, row: Row, first: str) -> Schema:
        """Give the schema of one field: its annotation, then overrides, then null or not."""
        made = self.spelled(ast.parse(row.annotation, mode="eval").body)
        said = self.override(row)
        null = bool(row.null) or ("null" in _types(made) and not row.default.startswith("factory:"))
        null = said.pop("null", null)
        if "type" in said:
            made.pop("enum", None)
        elif "enum" in made:
            said.pop("pattern", None)  # what an annotation lists needs no pattern
        made = _nullable({**made, **said}, null)
        text = made.pop("description", "")
        whole = self.rows.get((row.owner, ""))
        if whole and whole.until == row.until:  # gone with its type, if at all
            row = replace(row, until="")
        known = window(row) if row.since != first or row.until else {}
        return ({"description": text} if text else {}) | made | default(row, null) | known

    def override(self, row: Row) -> Schema:
        """Put together what overrides.toml says of a field, the most particular last."""
        found: Schema = {}
        for table in ("every", row.owner):
            for pattern, keywords in self.overrides.get(table, {}).items():
                if fnmatchcase(row.field, pattern):
                    self.used.add((table, pattern))
                    found |= keywords
        return found

    def spelled(self, node: ast.expr) -> Schema:
        """Say an annotation as a schema; it is flat, as each keyword is about one type only."""
        if isinstance(node, ast.BinOp):
            return merged(self.spelled(node.left), self.spelled(node.right))
        if isinstance(node, ast.Subscript):
            return self.generic(ast.unparse(node.value), node.slice)
        name = ast.unparse(node)
        if (name, "") in self.rows:
            return self.spelled(ast.parse(self.rows[name, ""].annotation, mode="eval").body)
        if name in _SIMPLE:
            return {"type": _SIMPLE[name]}
        if name == "PeftType":
            return {"type": "string"}
        return self.object(name)

    def generic(self, name: str, inside: ast.expr) -> Schema:
        """Say Optional[…], Union[…], Literal[…], list[…], dict[…] and tuple[…] as a schema."""
        parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
        if name == "Literal":
            return {"enum": [ast.literal_eval(part) for part in parts]}
        inner = [self.spelled(part) for part in parts]
        if name in ("list", "List"):
            return {"type": "array", "items": inner[0]}
        if name in ("dict", "Dict"):
            return {"type": "object", "additionalProperties": inner[1]}
        if name == "tuple":
            count = len(inner)
            return {"type": "array", "items": inner, "minItems": count, "maxItems": count}
        found = {"type": "null"} if name == "Optional" else inner.pop(0)
        for each in inner:
            found = merged(found, each)
        return found


def merged(one: Schema, two: Schema) -> Schema:
    """Allow what either allows; of two objects, or a string and an enum, the stricter counts."""
    if "enum" in one or "enum" in two:
        members = [m for each in (one, two) for m in _members(each)]
        return {"enum": members}
    types = list(dict.fromkeys([*_types(one), *_types(two)]))
    strict = {**one, **two, **(one if "properties" in one else {})}
    return strict | {"type": types[0] if len(types) == 1 else types}


def _members(schema: Schema) -> list[Any]:
    return schema.get("enum") or [m for t in _types(schema) for m in _MEMBERS[t]]


def _types(schema: Schema) -> list[str]:
    if "enum" in schema:
        return ["null"] if None in schema["enum"] else []
    kind = schema["type"]
    return kind if isinstance(kind, list) else [kind]


def _nullable(schema: Schema, null: bool) -> Schema:
    if "enum" in schema:
        return schema | {"enum": [m for m in schema["enum"] if m is not None] + [None] * null}
    kinds = [t for t in _types(schema) if t != "null"] + ["null"] * null
    return schema | {"type": kinds[0] if len(kinds) == 1 else kinds}


def window(row: Row) -> Schema:
    """Say since when, and until when, PEFT has something."""
    return {"x-since": row.since} | ({"x-until": row.until} if row.until else {})


def default(row: Row, null: bool) -> Schema:
    """Give the default as JSON, where it is one."""
    made = {"factory:dict": {}, "factory:list": []}.get(row.default)
    if made is not None:
        return {"default": made}
    if row.default.startswith("factory:"):
        return {}
    node = ast.parse(row.default or "...", mode="eval").body
    if isinstance(node, ast.Attribute):  # of an enum, whose values are their names
        return {"default": node.attr}
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return {}
    return {} if value is ... or (value is None and not null) else {"default": value}


def dispatching(kinds: list[Row], newest: str) -> Schema:
    """Give the schema for editors: by peft_type to the right one; other dialects pass."""
    return {
        "$schema": DRAFT, "$comment": NOTE, "title": "adapter_config.json",
        "description": "The config of a PEFT adapter. Files of other libraries that use the "
        "same name have no peft_type, and pass.",
        "x-newest": newest, "type": "object",
        "properties": {"peft_type": {
            "description": "The method.", "enum": [row.owner for row in kinds]}},
        "allOf": [
            {
                "if": {"properties": {"peft_type": {"const": row.owner}},
                       "required": ["peft_type"]},
                "then": {"$ref": f"adapter_config/{row.owner.lower()}.schema.json"},
            }
            for row in kinds
        ],
    }  # fmt: skip


def made(rows: History, overrides: dict[str, dict[str, Schema]]) -> Iterator[tuple[str, Schema]]:
    """Give every schema by its file name; refuse overrides that are about nothing."""
    generator = Generator(rows, overrides)
    kinds = generator.types()
    for row in kinds:
        yield f"adapter_config/{row.owner.lower()}.schema.json", generator.schema(row)
    yield "adapter_config.schema.json", dispatching(kinds, history.newest(rows))
    said = {(table, field) for table, fields in overrides.items() for field in fields}
    if idle := said - generator.used:
        raise ValueError(f"overrides.toml speaks of fields that no config has: {sorted(idle)}")


def write(folder: Path, rows: History) -> None:
    """Write all schemas into a folder."""
    overrides = tomllib.loads((FOLDER / "overrides.toml").read_text("utf-8"))
    (folder / "adapter_config").mkdir(parents=True, exist_ok=True)
    for name, schema in made(rows, overrides):
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, "utf-8")


def main() -> None:
    """Bring history and schemas up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=Path, help="folder of peft_fields.tsv and its kin")
    folder = parser.parse_args().fields
    rows = history.seeded(folder) if folder else history.load()
    root = peft_fields.installed()
    if root and history.number(peft_fields.version(root)) >= history.number(history.newest(rows)):
        rows = history.updated(rows, peft_fields.read(root))
    history.save(rows)
    write(FOLDER, rows)


if __name__ == "__main__":
    main()
