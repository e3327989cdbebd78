"""The estimate of what JSON takes is never too low, and fits real files."""

import json
import tracemalloc

import pytest

from adaptertools.jsoncost import cost
from tests.checks import tiny
from tests.handmade import entry

MANY = 20_000
TEXTS = {
    "lists": "[" + "[]," * MANY + "[]]",
    "objects": "[" + "{}," * MANY + "{}]",
    "lists in lists": "[" + "[[[]]]," * MANY + "[]]",
    "objects in lists": "[" + '{"a":{"b":[]}},' * MANY + "[]]",
    "texts": "[" + ",".join(f'"{i:x}"' for i in range(MANY)) + "]",
    "wide texts": "[" + ",".join(f'"\u0101{i:x}"' for i in range(MANY)) + "]",
    "one wide letter": '["\U0001f600","' + "x" * 10 * MANY + '"]',
    "numbers": "[" + ",".join(f"{i + 1000}" for i in range(MANY)) + "]",
    "fractions": "[" + "1e1," * MANY + "1]",
    "members": "{" + ",".join(f'"{i:x}":""' for i in range(MANY)) + "}",
    "members of their own": "{" + ",".join(f'"{i:x}":{i + 1000}' for i in range(MANY)) + "}",
    "tensors": json.dumps({f"t{i}": entry("F32", [i, 7], [i, 28 * i]) for i in range(MANY)}),
}


@pytest.mark.parametrize("name", TEXTS)
def test_it_is_never_too_low(name: str) -> None:
    raw = TEXTS[name].encode()
    tracemalloc.start()
    value = json.loads(raw.decode())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value
    assert peak - 10_000 < cost(raw) < 8 * peak


def test_a_config_costs_next_to_nothing() -> None:
    assert cost(json.dumps(tiny.CONFIG).encode()) < 10_000
