"""Does each value have the type, and each key the name, that PEFT's config class gives it?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from adaptertools.checks import _peft as peft
from adaptertools.checks import check
from adaptertools.checks._peft import Config, differences, inside, spoken
from adaptertools.dialect import CONFIG
from adaptertools.errors import first, shown
from adaptertools.facts import Found, Result, Text
from adaptertools.schema import Difference

UNKNOWN = "additionalProperties"
RANGES = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_WORDS = {
    "array": "a list", "boolean": "true or false", "integer": "a whole number", "null": "null",
    "number": "a number", "object": "an object", "string": "text",
}  # fmt: skip
_PLURALS = {"array": "lists", "boolean": "truth values", "integer": "whole numbers",
            "number": "numbers", "string": "names"}  # fmt: skip
# What other libraries, papers and people call PEFT's fields.
_ALIASES = {
    "alpha": "lora_alpha", "base_model": "base_model_name_or_path", "dropout": "lora_dropout",
    "lora_r": "r", "lora_rank": "r", "lora_target_modules": "target_modules", "rank": "r",
    "method": "peft_type", "model": "base_model_name_or_path", "network_alpha": "lora_alpha",
    "rslora": "use_rslora", "targets": "target_modules", "dora": "use_dora",
}  # fmt: skip


@check(
    "CFG005", "each value is of the type that PEFT's config class says",
    fix="Write a value of that type.",
)  # fmt: skip
def types_fit(config: Config) -> Result:
    """PEFT checks no types, so a wrong one fails late, or not at all and does something else.

    "use_dora": "false" is a text that is not empty, so DoRA is on. "r": "8" raises once the base
    model was loaded. The rules are those of schemas/adapter_config, made from PEFT's own classes.
    """
    found = (d for d in differences(config) if d.keyword not in {UNKNOWN, *RANGES})
    for difference in found:
        name = difference.pointer.lstrip("/") or CONFIG
        words = f"{shown(name)} is {spoken(difference.value)}, expected is {_expected(difference)}"
        hint = _suggested(difference)
        yield Found(text=words, pointer=difference.pointer, hint=hint)


def _expected(difference: Difference) -> str:
    """Say in words what a rule wants."""
    rule, schema = difference.rule, difference.schema
    if difference.keyword == "const":
        return spoken(rule)
    if difference.keyword in ("enum", "pattern"):
        return f"one of {first(_choices(schema), 12)}"
    if difference.keyword in ("minItems", "maxItems"):
        return f"a list of {rule}"
    kinds = rule if isinstance(rule, list) else [rule]
    return " or ".join(_kind(each, schema.get("items")) for each in kinds)


def _kind(name: str, items: object) -> str:
    inner = items.get("type") if name == "array" and isinstance(items, dict) else None
    return _WORDS[name] + (f" of {_PLURALS.get(inner, inner)}" if isinstance(inner, str) else "")


def _choices(schema: Mapping[str, Any]) -> list[str]:
    """Give the values that a field can have, as JSON."""
    return [json.dumps(value) for value in schema.get("enum", schema.get("examples", []))]


def _suggested(difference: Difference) -> str:
    """Say what was probably meant."""
    value, kinds = difference.value, difference.schema.get("type", [])
    if difference.keyword in ("enum", "pattern"):
        choices = {choice.lower(): choice for choice in _choices(difference.schema)}
        near = get_close_matches(json.dumps(value)[:80].lower(), choices, 1)
        return f"Did you mean {choices[near[0]]}?" if near else ""
    if isinstance(value, str) and difference.keyword == "type":
        return _unquoted(value[:200], kinds)
    if isinstance(value, float) and "integer" in kinds and value.is_integer():
        return f"Write {int(value)}."
    return "Leave the key out, and its default counts." if value is None else ""


def _unquoted(value: str, kinds: list[str] | str) -> str:
    """Suggest the number or truth value that stands in quotes, or a list of one name."""
    word = value.strip()
    if "boolean" in kinds and word.lower() in ("true", "false"):
        return f"Write {word.lower()}, without quotes."
    if ("integer" in kinds or "number" in kinds) and re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", word):
        return f"Write {word}, without quotes."
    if "array" in kinds and re.fullmatch(r"[\w.]+", word):
        return f'Write ["{shown(word)}"].'
    return ""


@check(
    "CFG006", "PEFT knows every key", level="warning",
    fix="Correct the name, or take the key out.",
)  # fmt: skip
def keys_known(config: Config, text: Text) -> Result:
    """PEFT drops a key that its config class lacks, so what it says does not happen.

    Since 0.14.0 with one warning among others, before with a TypeError; in nested configs without
    a word. Mostly it is a slip: lora_rank for r, alpha for lora_alpha. A file of a newer PEFT may
    have keys that are not known here; those are only notes.
    """
    for pointer, key, part in _unknown(config):
        line, column = text.key_at(inside(pointer, key))
        nested = pointer.lstrip("/")
        where = shown(nested) if nested else str(peft.kind(config))
        yield Found(
            text=f"{shown(key)!r} is no field of {where} in any PEFT up to {peft.newest()}",
            pointer=inside(pointer, key), line=line, column=column,
            hint=_near(key, part, nested), level=_level(nested, peft.later(config)),
        )  # fmt: skip


def _level(nested: str, later: bool) -> str:
    if later:
        return "note"
    # This one class takes its keys as arguments, and PEFT's retry ends in a RecursionError.
    return "error" if nested == "monteclora_config" else ""


def _unknown(config: Config) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for difference in differences(config):
        if difference.keyword == UNKNOWN:
            known = difference.schema["properties"]
            for key in difference.value:
                if key not in known:
                    yield difference.pointer, key, known


def _near(key: str, known: Mapping[str, Any], nested: str) -> str:
    """Suggest a field that this config has, or say whose the field is."""
    name = key[:60].lower().replace("-", "_")
    if (alias := _ALIASES.get(name, "")) in known:
        return f"Did you mean {alias}?"
    if near := get_close_matches(name, known, 1, 0.75):
        return f"Did you mean {near[0]}?"
    others = () if nested else peft.types()
    having = [other for other in others if key in peft.schema_of(other)["properties"]]
    return f"It is a field of {first(having, 3)}." if having else ""
