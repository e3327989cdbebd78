"""The schemas of adapter_config.json say what PEFT's classes say, no more and no less."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import os
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from adaptertools import schema
from adaptertools.checks import _peft
from adaptertools.dialect import dialect
from tests.schemas import generate_adapter_config as generator
from tests.schemas import history, peft_fields
from tests.schemas.peft_fields import Field, Peft

DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", Path(__file__).parents[3] / "shared" / "data"))
CONFIGS = DATA / "configs"
WILD = [p for p in sorted((CONFIGS / "wild").glob("*.json")) if dialect(p.read_bytes()) == "peft"]
GENERATED = sorted((CONFIGS / "generated").rglob("*.json")) if DATA.is_dir() else []
real = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")
TYPES = _peft.types()

# What is wrong with real files, looked at one by one: file -> keys that are no field, and why.
TRUE_FINDINGS = {
    # An experiment of PEFT's own, written by hand: C3AConfig never had either field.
    "008.json": {"/exclude_modules", "/fan_in_fan_out"},
}


def properties(kind: str) -> dict[str, Any]:
    """Give the fields of a type with their rules."""
    found: dict[str, Any] = _peft.schema_of(kind)["properties"]
    return found


def differing(config: dict[str, Any]) -> set[str]:
    """Hold a config against its schema, strictly; give the pointers to what differs."""
    found = set()
    for each in schema.differences(_peft.schema_of(config["peft_type"]), config):
        if each.keyword == "additionalProperties":
            found |= {
                _peft.inside(each.pointer, k)
                for k in each.value
                if k not in each.schema["properties"]
            }
        else:
            found.add(each.pointer)
    return found


def test_they_are_what_the_generator_makes(tmp_path: Path) -> None:
    generator.write(tmp_path, history.load())
    made = {p.relative_to(tmp_path): p.read_text("utf-8") for p in tmp_path.rglob("*.json")}
    folder = schema.folder()
    held = [folder / "adapter_config.schema.json", *(folder / "adapter_config").iterdir()]
    assert made == {p.relative_to(folder): p.read_text("utf-8") for p in held}
    assert len(made) == len(TYPES) + 1 == 47


def test_the_history_takes_in_the_installed_peft() -> None:
    rows, root = history.load(), peft_fields.installed()
    assert root is not None
    peft = peft_fields.read(root)
    if history.number(peft.version) != history.number(history.newest(rows)):
        pytest.skip(f"history.tsv is about PEFT {history.newest(rows)}, not {peft.version}")
    assert history.updated(rows, peft) == rows


@real
def test_there_are_as_many_files_as_there_should_be() -> None:
    assert (len(WILD), len(GENERATED)) == (133, 149)


@real
def test_the_history_is_that_of_every_release() -> None:
    rows = history.load()
    for key, row in history.seeded(DATA).items():
        assert (rows[key].since, rows[key].until) == (row.since, row.until), key
        if key[1] and row.default != "<init=False>":
            assert (rows[key].annotation, rows[key].default) == (row.annotation, row.default), key


def test_sources_are_read_as_python_does() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    root = peft_fields.installed()
    assert root is not None
    peft = peft_fields.read(root)
    classes = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    assert peft.types == {kind: cls.__name__ for kind, cls in classes.items()}
    for kind, cls in classes.items():
        fields = [field.name for field in dataclasses.fields(cls)]
        assert [field.name for field in peft.classes[peft.types[kind]]] == fields


def known_at(kind: str, version: str) -> set[str]:
    """Give the fields that a schema says a PEFT release has."""
    whole, at = _peft.schema_of(kind), history.number(version)
    return {
        name
        for name, rule in properties(kind).items()
        if history.number(rule.get("x-since", whole["x-since"])) <= at
        and ("x-until" not in rule or at <= history.number(rule["x-until"]))
    }


def test_the_installed_classes_have_these_fields_and_defaults() -> None:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    newest = history.number(_peft.newest())
    if history.number(peft.__version__) > newest:
        pytest.skip(f"PEFT {peft.__version__} is newer than what the schemas know")
    for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        fields = {field.name: field for field in dataclasses.fields(cls)}
        assert known_at(kind.value, peft.__version__) == fields.keys(), kind
        for name, field in fields.items() if history.number(peft.__version__) == newest else ():
            rule, default = properties(kind.value)[name], field.default
            if name == "peft_type" or dataclasses.is_dataclass(field.default_factory):
                continue
            if default is dataclasses.MISSING:
                default = field.default_factory()
            if default is not None or "default" in rule:
                assert rule["default"] == getattr(default, "value", default), (kind, name)


@pytest.mark.parametrize("kind", TYPES)
def test_each_is_valid_draft_07_that_stands_for_itself(kind: str) -> None:
    held = _peft.schema_of(kind)
    jsonschema.Draft7Validator.check_schema(held)
    assert "$ref" not in json.dumps(held), "no other file is needed"
    assert held["additionalProperties"] is False
    for rule in held["properties"].values():
        if "default" in rule and "description" in rule:
            assert rule["description"].endswith(".")
        if "default" in rule:
            assert not list(schema.differences(rule, rule["default"])), "a default is allowed"


def test_none_of_pefts_texts_is_in_them() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        for field in dataclasses.fields(cls):
            said = properties(kind.value)[field.name].get("description", "")
            theirs = field.metadata.get("help", "")
            assert not said or said.strip(".") not in theirs, (kind, field.name)


@real
@pytest.mark.parametrize("path", WILD, ids=lambda p: p.stem)
def test_every_real_config_is_valid(path: Path) -> None:
    assert differing(json.loads(path.read_bytes())) == TRUE_FINDINGS.get(path.name, set())


@real
@pytest.mark.parametrize("path", GENERATED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_what_peft_wrote_is_valid_also_for_that_release(path: Path) -> None:
    config = json.loads(path.read_bytes())
    assert differing(config) == set()
    assert config.keys() <= known_at(config["peft_type"], path.parent.name)


def test_what_the_installed_peft_writes_is_valid(tmp_path: Path) -> None:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.tuners.lora.config import CordaConfig

    if history.number(peft.__version__) > history.number(_peft.newest()):
        pytest.skip(f"PEFT {peft.__version__} is newer than what the schemas know")
    needed: dict[str, dict[str, Any]] = {
        "ADALORA": {"total_step": 10}, "CPT": {"task_type": "CAUSAL_LM"},
        "LORA": {
            "eva_config": peft.EvaConfig(), "corda_config": CordaConfig(),
            "target_modules": ["q_proj"], "rank_pattern": {"a": 4}, "alpha_pattern": {"a": 0.5},
            "trainable_token_indices": {"embed": [1, 2]}, "layer_replication": [(0, 1)],
        },
    }  # fmt: skip
    written = 0
    for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config = cls(**needed.get(kind.value, {}))
            except ImportError:
                continue  # AdaMSS wants scikit-learn
        config.save_pretrained(tmp_path / kind.value)
        said = json.loads((tmp_path / kind.value / "adapter_config.json").read_text("utf-8"))
        assert differing(said) == set(), kind
        written += 1
    assert written >= 44


def wrong(rule: dict[str, Any]) -> Iterator[Any]:
    """Give values that a field cannot have."""
    kinds = rule.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    samples = {"array": [], "boolean": True, "integer": 1, "null": None, "number": 1.5,
               "object": {}, "string": "no such word"}  # fmt: skip
    if "number" in kinds:
        samples.pop("integer")  # which is one
    for name, value in samples.items():
        if name not in kinds and value not in rule.get("enum", []):
            yield value
    for keyword, step in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0)):
        if keyword in rule:
            yield rule[keyword] + step


@pytest.mark.parametrize("kind", TYPES)
def test_a_value_of_a_wrong_kind_is_refused_where_it_stands(kind: str) -> None:
    good: dict[str, Any] = {"peft_type": kind}
    assert differing(good) == set()
    for name, rule in properties(kind).items():
        for value in wrong(rule) if name != "peft_type" else ():
            assert differing({**good, name: value}) == {f"/{name}"}, (name, value)


def test_inside_lists_maps_and_nested_configs() -> None:
    spoiled = {
        "/target_modules/1": {"target_modules": ["q", 1]},
        "/rank_pattern/a~1b": {"rank_pattern": {"a/b": "8"}},
        "/layer_replication/0": {"layer_replication": [[1, 2, 3]]},
        "/layer_replication/0/1": {"layer_replication": [[1, "2"]]},
        "/trainable_token_indices/e/0": {"trainable_token_indices": {"e": ["1"]}},
        "/eva_config/rho": {"eva_config": {"rho": 0.5}},
        "/eva_config/row": {"eva_config": {"row": 2.0}},
        "/r": {"r": 8.0},
        "/lora_alpha": {"lora_alpha": True},
        "/init_lora_weights": {"init_lora_weights": "pissa_niter_[number of iters]"},
    }
    for pointer, change in spoiled.items():
        assert differing({"peft_type": "LORA", **change}) == {pointer}
    assert differing({"peft_type": "LORA", "init_lora_weights": "pissa_niter_16"}) == set()
    assert differing({"peft_type": "LORA", "lora_alpha": 0.5, "lora_dropout": 0}) == set()


def test_the_one_for_editors_dispatches_by_peft_type() -> None:
    whole = schema.load("adapter_config")
    jsonschema.Draft7Validator.check_schema(whole)
    # An editor or check-jsonschema resolves the references by the file's own place.
    place = schema.folder().as_uri() + "/adapter_config.schema.json"
    registry: Any = Registry(
        retrieve=lambda uri: Resource.from_contents(
            json.loads(Path(uri.removeprefix("file://")).read_text("utf-8"))
        )
    ).with_resource(place, Resource.from_contents(whole))
    check = jsonschema.Draft7Validator(
        {"$schema": generator.DRAFT, "$ref": place}, registry=registry
    )
    assert check.is_valid({"peft_type": "LORA", "r": 8})
    assert not check.is_valid({"peft_type": "LORA", "r": "8"})
    assert check.is_valid({"peft_type": "VERA", "d_initial": 0.1})
    assert not check.is_valid({"peft_type": "LORA", "d_initial": 0.1})
    assert not check.is_valid({"peft_type": "lora"})
    assert check.is_valid({"fine_tune_type": "lora", "r": "8"}), "another library's"
    assert {rule["then"]["$ref"] for rule in whole["allOf"]} == {
        f"adapter_config/{kind.lower()}.schema.json" for kind in TYPES
    }
    assert set(whole["properties"]["peft_type"]["enum"]) == set(TYPES)


def renewed() -> Peft:
    """Give a PEFT of tomorrow, with a field more and a field less."""
    root = peft_fields.installed()
    assert root is not None
    peft = peft_fields.read(root)
    lora = [field for field in peft.classes["LoraConfig"] if field.name != "use_qalora"]
    lora = [dataclasses.replace(f, default="4") if f.name == "r" else f for f in lora]
    lora.append(Field("new", "Optional[Literal['a', 'b']]", "None"))
    classes = {**peft.classes, "LoraConfig": tuple(lora)}
    types = {kind: name for kind, name in peft.types.items() if kind != "VERA"}
    return Peft("9.0.0", types, classes, peft.literals)


def test_a_newer_peft_opens_and_closes_windows() -> None:
    before = history.load()
    rows = history.updated(before, renewed())
    made = dict(
        generator.made(rows, tomllib.loads((generator.FOLDER / "overrides.toml").read_text()))
    )
    lora = made["adapter_config/lora.schema.json"]["properties"]
    assert lora["new"] == {"enum": ["a", "b", None], "default": None, "x-since": "9.0.0"}
    assert lora["use_qalora"]["x-until"] == history.newest(before)
    assert lora["r"]["default"] == 4
    assert "use_qalora" in made["adapter_config/adalora.schema.json"]["properties"]
    assert made["adapter_config/vera.schema.json"]["x-until"] == history.newest(before)
    assert made["adapter_config.schema.json"]["x-newest"] == "9.0.0"
    with pytest.raises(ValueError, match="older"):
        history.updated(rows, dataclasses.replace(renewed(), version="0.21.2"))


def test_overrides_about_nothing_are_refused() -> None:
    overrides = tomllib.loads((generator.FOLDER / "overrides.toml").read_text("utf-8"))
    spoiled = copy.deepcopy(overrides) | {"VERA": {"no_such_field": {"minimum": 1}}}
    with pytest.raises(ValueError, match="no_such_field"):
        list(generator.made(history.load(), spoiled))


def test_history_is_a_plain_table(tmp_path: Path) -> None:
    rows = history.load()
    history.save(rows, tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == history.FILE.read_bytes()
    with history.FILE.open(encoding="utf-8", newline="") as file:
        assert {len(line) for line in csv.reader(file, delimiter="\t")} == {7}
