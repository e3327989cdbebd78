"""The schemas that are shipped describe what is really printed and written, and nothing else."""

import ast
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import adaptertools as at
from adaptertools import schema
from adaptertools.cli import COMMANDS
from adaptertools.errors import NotFound, Unreadable
from adaptertools.tensorfile import BITS
from adaptertools.verbs.demo import Answer, Demo
from tests import cases_blocks, handmade, handmade_pickle
from tests.kit import CASES

NAMES = (
    "compare", "demo", "download", "inspect", "ls", "plan", "receipt", "report", "search", "smoke",
    "stack", "validation",
)  # fmt: skip
# A case for every kind of update, and the options that bring it about.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "low-rank": ("linear_llama_sharded", {"max_shard_size": "10KB", "dtype": "float16"}),
    "dora": ("dora_gpt2", {}),
    "shift": ("lora_bias", {"scale": 0.5}),
    "rows": ("tokens", {}),
    "toward": ("save_lm_head", {"scale": 0.5}),
    "truncate": ("kasa", {}),
}
BLOCKS = {"within": cases_blocks.single, "experts": cases_blocks.fused}


def loads(text: str) -> Any:
    """Read JSON as the standard has it: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def as_text(value: Any) -> Any:
    """Send a value through JSON, as a reader will get it."""
    return loads(json.dumps(value))


def documents(folder: Path, base: Path, adapter: Path, **options: Any) -> dict[str, list[Any]]:
    """Merge, and give every document that comes of it, by the name of its schema."""
    plan = at.plan(adapter, base=base, out=folder / "out", **options)
    merged = at.merge(plan, verify=True)
    checked = at.verify(folder / "out")
    assert checked.ok
    receipt = loads((folder / "out" / "adaptertools.json").read_text("utf-8"))
    reports = [as_text(merged.as_json()), as_text(checked.as_json())]
    return {"plan": [as_text(plan.as_json())], "receipt": [receipt], "report": reports}


def check_all(found: dict[str, list[Any]]) -> None:
    """Hold documents against their schemas."""
    for name, values in found.items():
        for value in values:
            schema.check(name, value)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("small")
    base, adapter = handmade.base(folder / "base"), handmade.adapter(folder / "adapter")
    return documents(folder, base, adapter)


def test_the_folder_holds_these_and_no_others() -> None:
    # What is about PEFT's own file has tests of its own, in tests/schemas.
    foreign = {"adapter_config", "adapter_config.schema.json", "overrides.toml"}
    assert sorted(p.name for p in schema.folder().iterdir() if p.name not in foreign) == [
        f"{name}.schema.json" for name in NAMES
    ]
    with pytest.raises(NotFound, match=", ".join(NAMES)):
        schema.load("nonsense")


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_valid_draft_07_and_described(name: str) -> None:
    held = schema.load(name)
    assert held["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(held)
    for where, part in nodes(held):
        named = "properties" in part and part.get("type") == "object"
        assert not named or part["description"], where
        for key, value in part.get("properties", {}).items() if named else ():
            assert {"description", "$ref", "const"} & value.keys(), f"{where}.{key}"


def nodes(value: Any, where: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every object inside a schema."""
    if isinstance(value, dict):
        yield where, value
        for key, inner in value.items():
            yield from nodes(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner, where)


def test_what_schemas_share_is_the_same_in_each() -> None:
    seen: dict[str, Any] = {}
    for name in NAMES:
        for key, value in schema.load(name).get("definitions", {}).items():
            assert seen.setdefault(key, value) == value, f"{key} differs in {name}"
    dtypes = seen["edit"]["properties"]["dtype"]["enum"]
    assert dtypes == seen["receipt_edit"]["properties"]["dtype"]["enum"] == list(BITS)


@pytest.mark.parametrize("kind", [*KINDS, *BLOCKS])
def test_documents_of_every_kind_of_update(kind: str, tmp_path: Path) -> None:
    name, options = KINDS.get(kind, ("", {}))
    build = CASES[name].build if name else BLOCKS[kind]
    build(tmp_path, torch.bfloat16)
    found = documents(tmp_path, tmp_path / "base", tmp_path / "adapter", **options)
    check_all(found)
    edits = found["receipt"][0]["edits"]
    assert kind in {update["kind"] for edit in edits for update in edit["updates"]}


def test_every_kind_of_update_has_a_case() -> None:
    kinds = schema.load("plan")["definitions"]["update"]["oneOf"]
    named = [each["properties"]["kind"] for each in kinds]
    assert {kind["const"] for kind in named if "const" in kind} == {*KINDS, *BLOCKS}
    assert [kind["not"]["enum"] for kind in named if "not" in kind] == [[*KINDS, *BLOCKS]]


def test_merge_that_changes_nothing(tmp_path: Path) -> None:
    base = handmade.base(tmp_path / "base", shards=2)
    zero = {name: 0 * tensor for name, tensor in handmade.lora_tensors().items()}
    found = documents(tmp_path, base, handmade.adapter(tmp_path / "adapter", zero))
    check_all(found)
    assert [finding["code"] for finding in found["report"][0]["findings"]] == ["MRG030"]


def test_every_command_prints_what_a_schema_describes() -> None:
    """A report, or something of its own; and whatever makes a report is a verb of its schema."""
    verbs = set(schema.load("report")["properties"]["verb"]["enum"])
    assert set(COMMANDS) <= verbs | set(schema.names())
    rooms = Path(at.__file__).parent.rglob("*.py")
    trees = [ast.parse(path.read_text("utf-8")) for path in rooms]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [
        ast.literal_eval(keyword.value)
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Report"
        for keyword in call.keywords
        if keyword.arg == "verb"
    ]
    assert {"convert", "merge", "validate", "verify"} <= set(made) <= verbs


def test_reports_of_validate_and_convert(tmp_path: Path) -> None:
    adapter = handmade.adapter(tmp_path / "adapter")
    found = as_text(at.validate(adapter).as_json())
    schema.check("report", found)
    assert found["facts"]["checks_run"]
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(handmade_pickle.zipped())
    schema.check("report", as_text(at.validate(adapter, deep=True).as_json()))
    report = as_text(at.convert(adapter, to="peft", out=tmp_path / "out").as_json())
    schema.check("report", report)
    with pytest.raises(Unreadable, match="verb"):
        schema.check("report", {**report, "verb": "nonsense"})


def test_failed_verification(tmp_path: Path) -> None:
    base, adapter = handmade.base(tmp_path / "base"), handmade.adapter(tmp_path / "adapter")
    at.merge(adapter, base=base, out=tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-9] ^= 255
    weights.write_bytes(raw)
    (tmp_path / "out" / "README.md").unlink()
    report = as_text(at.verify(tmp_path / "out").as_json())
    assert (report["ok"], report["facts"]["wrong"]) == (False, 1)
    schema.check("report", report)


def test_receipt_of_nan_is_still_json(tmp_path: Path) -> None:
    tensors = handmade.lora_tensors()
    next(iter(tensors.values()))[0, 0] = float("nan")
    base = handmade.base(tmp_path / "base")
    adapter = handmade.adapter(tmp_path / "adapter", tensors)
    plan = at.plan(adapter, base=base, out=tmp_path / "out", allow_nonfinite=True)
    schema.check("report", as_text(at.merge(plan).as_json()))
    receipt = loads((tmp_path / "out" / "adaptertools.json").read_text("utf-8"))
    schema.check("receipt", receipt)


def test_demo(small: dict[str, list[Any]], tmp_path: Path) -> None:
    base, adapter = handmade.base(tmp_path / "base"), handmade.adapter(tmp_path / "adapter")
    plan = at.plan(adapter, base=base, out=tmp_path / "out")
    merged = at.merge(plan)
    answer = Answer(prompt="Beautiful is", base="a", adapter="b", merged="b")
    demo = Demo(
        folder=tmp_path, base=base, adapter=adapter, merged=tmp_path / "out",
        inspected=at.open(adapter), plan=plan, report=merged,
        verification=at.verify(tmp_path / "out"), prompts=(answer,), logit_gap=1e-7,
        packed=merged, smoke=None, seconds={"import": 0.5, "merge": 0.25},
    )  # fmt: skip
    value = as_text(demo.as_json())
    schema.check("demo", value)
    schema.check("report", value["merge"])
    schema.check("report", value["verify"])
    assert value["ok"] is True
    with pytest.raises(Unreadable, match=r"demo: \$\.merge"):
        schema.check("demo", {**value, "merge": {}})


SPOILS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "plan": (("shards", 0, "edits", 0, "updates", 0, "scale"), "2"),
    "receipt": (("edits", 0, "rounding", "swallowed"), 1.5),
    "report": (("facts", "bytes"), -1),
}


@pytest.mark.parametrize("name", SPOILS)
def test_spoiled_documents_are_refused(name: str, small: dict[str, list[Any]]) -> None:
    where, value = SPOILS[name]
    good = small[name][0]
    schema.check(name, good)
    spoiled = copy.deepcopy(good)
    holder = spoiled
    for step in where[:-1]:
        holder = holder[step]
    assert holder[where[-1]] != value
    holder[where[-1]] = value
    with pytest.raises(Unreadable, match=rf"^{name}: \$"):
        schema.check(name, spoiled)


@pytest.mark.parametrize("name", SPOILS)
def test_every_key_is_wanted_and_no_other_allowed(name: str, small: dict[str, list[Any]]) -> None:
    good = small[name][0]
    for key in good:
        with pytest.raises(Unreadable, match=key):
            schema.check(name, {k: v for k, v in good.items() if k != key})
    with pytest.raises(Unreadable, match="surplus"):
        schema.check(name, {**good, "surplus": 1})


def test_the_facts_are_those_of_the_verb(small: dict[str, list[Any]]) -> None:
    merged, verified = small["report"]
    with pytest.raises(Unreadable, match=r"facts"):
        schema.check("report", {**merged, "facts": verified["facts"]})
    with pytest.raises(Unreadable, match=r"facts"):
        schema.check("report", {**verified, "facts": merged["facts"]})
