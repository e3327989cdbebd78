"""The quick look at a config says yes only where jsonschema does, and says it of nearly all."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptertools import schema
from adaptertools.checks import _peft
from tests.schemas.test_adapter_config import GENERATED, real

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 8, 8.0, 0.5, 1.5, float("nan"), 10**30, "", "x", "8", "none",
    "lora_only", "gaussian", "CAUSAL_LM", "pissa_niter_16", "all-linear", [], [None], [1], [[1]],
    ["q"], ["q", 1], [0.5, 0.5], {}, {"q": 1}, {"q": 0}, {"q": 1.5}, {"q": "x"}, {"q": None},
    {"loftq_bits": 4}, {"loftq_bits": "4"}, {"odd": 1}, [{}], {"q": {}}, {"q": [1]},
)  # fmt: skip


def exact(rule: dict[str, Any], value: object) -> bool:
    """Ask jsonschema, with the strict integers of `differences`."""
    return bool(schema._strict()(rule).is_valid(value))


@pytest.mark.parametrize("kind", _peft.types())
def test_yes_is_never_wrong(kind: str) -> None:
    whole = _peft.schema_of(kind)
    for rule in whole["properties"].values():
        for value in ODD:
            assert not schema.surely_fits(rule, value) or exact(rule, value), (rule, value)
    for config in ({}, {"peft_type": kind}, {"peft_type": "X"}, {"peft_type": kind, "odd": 1}, []):
        assert not schema.surely_fits(whole, config) or exact(whole, config)
    assert schema.surely_fits(whole, {"peft_type": kind})
    assert not schema.surely_fits(whole, {"peft_type": kind, "odd": 1})
    assert not schema.surely_fits(whole, {})


@pytest.mark.parametrize(
    ("rule", "value"),
    [({"not": {}}, {}), ({"anyOf": []}, 1), ({"multipleOf": 2}, 3), ({"minItems": 1}, []),
     ({"exclusiveMinimum": 0}, 0), ({"items": [{"type": "string"}]}, [1]),
     ({"items": {"type": "integer"}}, [True]), ({"additionalProperties": False}, {"a": 1}),
     ({"enum": [1]}, True), ({"const": 1}, True), ({"enum": [1]}, 1.0),
     ({"minimum": 1}, float("nan")),
     ({"type": "object", "properties": {"a": {"type": "null"}}}, {"a": 0})],
)  # fmt: skip
def test_what_it_does_not_know_it_leaves_to_jsonschema(rule: dict[str, Any], value: object) -> None:
    assert not schema.surely_fits(rule, value)


@real
def test_it_knows_what_configs_are_made_of() -> None:
    held = [json.loads(Path(path).read_text("utf-8")) for path in GENERATED]
    known = [config for config in held if _peft.kind(config)]
    sure = [c for c in known if schema.surely_fits(_peft.schema_of(_peft.kind(c)), c)]
    assert len(sure) > 0.9 * len(known) > 0
