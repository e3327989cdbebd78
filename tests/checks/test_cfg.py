"""What the CFG checks say of configs that were spoiled on purpose, and of real ones."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import packaging.version
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptertools as at
from adaptertools.checks import _peft
from adaptertools.dialect import dialect
from adaptertools.facts import Weights
from adaptertools.tensorfile import TensorSpec
from tests.checks import tiny
from tests.checks.look import GOOD, errors, look

DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", Path(__file__).parents[3] / "shared" / "data"))
WILD = sorted((DATA / "configs" / "wild").glob("*.json")) if DATA.is_dir() else []
GENERATED = sorted((DATA / "configs" / "generated").rglob("*.json")) if DATA.is_dir() else []
real = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there")
WEIGHTS = ("adapter_model.safetensors",)
OUT = "take it out"

# What is changed in a good config -> pointer, code and level of each finding.
SPOILED: dict[str, tuple[dict[str, Any], set[tuple[str, str, str]]]] = {
    "nothing": ({}, set()),
    "no type": ({"peft_type": OUT}, {("/peft_type", "CFG004", "error")}),
    "type null": ({"peft_type": None}, {("/peft_type", "CFG004", "error")}),
    "lower case": ({"peft_type": "lora"}, {("/peft_type", "CFG004", "error")}),
    "a number": ({"peft_type": 3}, {("/peft_type", "CFG004", "error")}),
    "removed": ({"peft_type": "BONE", "lora_alpha": OUT}, {("/peft_type", "CFG004", "error")}),
    "of tomorrow": (
        {"peft_type": "TOMORROW", "peft_version": "9.0.0"}, {("/peft_type", "CFG004", "note"),
        ("/peft_version", "CFG007", "note")}),
    "task": ({"task_type": "causal"}, {("/task_type", "CFG005", "error")}),
    "text for number": ({"r": "8"}, {("/r", "CFG005", "error")}),
    "text for truth": ({"use_dora": "false"}, {("/use_dora", "CFG005", "error")}),
    "nested": ({"eva_config": {"rho": "2"}}, {("/eva_config/rho", "CFG005", "error")}),
    "slip": ({"lora_rank": 8}, {("/lora_rank", "CFG006", "warning")}),
    "another's": ({"init_weights": True}, {("/init_weights", "CFG006", "warning")}),
    "nested slip": ({"eva_config": {"tau_": 1}}, {("/eva_config/tau_", "CFG006", "warning")}),
    "arguments": (
        {"monteclora_config": {"x": 1}}, {("/monteclora_config/x", "CFG006", "error")}),
    "later key": (
        {"lora_rank": 8, "peft_version": "9.0.0"},
        {("/lora_rank", "CFG006", "note"), ("/peft_version", "CFG007", "note")}),
    "ended": ({"enable_lora": None}, {("/enable_lora", "CFG007", "note")}),
    "own version": (
        {"use_dora": False, "peft_version": "0.8.2"},
        {("/use_dora", "CFG008", "warning"), ("/peft_version", "CFG008", "warning")}),
    "no version": ({"peft_version": "latest"}, {("/peft_version", "CFG008", "warning")}),
    "development": ({"peft_version": "0.18.2.dev0@UNKNOWN", "kasa_config": None}, set()),
    "rank 0": ({"r": 0}, {("/r", "CFG009", "error")}),
    "rank in pattern": ({"rank_pattern": {"q": 0}}, {("/rank_pattern/q", "CFG009", "error")}),
    "dropout": ({"lora_dropout": 1.5}, {("/lora_dropout", "CFG009", "error")}),
    "dropout 1": ({"lora_dropout": 1}, {("/lora_dropout", "CFG009", "warning")}),
    "alpha null": ({"lora_alpha": None}, {("/lora_alpha", "CFG009", "error")}),
    "alpha 0": (
        {"lora_alpha": 0}, {("/lora_alpha", "CFG009", "warning")}),
    "alpha in pattern": (
        {"alpha_pattern": {"q": -1.5}}, {("/alpha_pattern/q", "CFG009", "warning")}),
    "large rank": ({"r": 2048, "lora_alpha": 2048}, {("/r", "CFG010", "warning")}),
    "absurd rank": ({"r": 10**9, "lora_alpha": 10**9}, {("/r", "CFG010", "error")}),
    "large in pattern": ({"rank_pattern": {"q": 2944}}, set()),
    "absurd in pattern": (
        {"rank_pattern": {"q": 65_537}}, {("/rank_pattern/q", "CFG010", "error")}),
    "no targets": ({"target_modules": []}, {("/target_modules", "CFG011", "error")}),
    "parameters": ({"target_modules": [], "target_parameters": ["experts.w1"]}, set()),
    "one name": ({"target_modules": "q_proj"}, {("/target_modules", "CFG011", "error")}),
    "top module": ({"target_modules": "lm_head"}, set()),
    "blank": ({"target_modules": " "}, {("/target_modules", "CFG011", "error")}),
    "names": ({"target_modules": "q_proj, v_proj"}, {("/target_modules", "CFG011", "error")}),
    "list as text": ({"target_modules": "['q_proj']"}, {("/target_modules", "CFG011", "error")}),
    "broken": ({"target_modules": "(q_proj"}, {("/target_modules", "CFG011", "error")}),
    "broken key": ({"rank_pattern": {"a(": 4}}, {("/rank_pattern/a(", "CFG011", "error")}),
    "broken name": ({"modules_to_save": ["a", "*"]}, {("/modules_to_save/1", "CFG011", "error")}),
    "deep": ({"exclude_modules": "(" * 4000}, {("/exclude_modules", "CFG011", "error")}),
    "expression": ({"target_modules": r"model\.layers\.\d+\.mlp\.(up|down)_proj"}, set()),
    "null": ({"target_modules": None}, {("/target_modules", "CFG012", "warning")}),
    "missing": ({"target_modules": OUT}, {("/target_modules", "CFG012", "warning")}),
    "all": ({"target_modules": "all-linear"}, {("/target_modules", "CFG012", "warning")}),
    "together": ({"lora_bias": True, "use_dora": True}, {("/lora_bias", "CFG013", "error")}),
    "training": ({"inference_mode": False}, {("/inference_mode", "CFG014", "warning")}),
    "cache": (
        {"corda_config": {"cache_file": "/tmp/c.pt"}},
        {("/corda_config/cache_file", "CFG014", "warning")}),
    "changed base": ({"init_lora_weights": "OLoRA"}, {("/init_lora_weights", "CFG015", "warning")}),
    "strong": ({"lora_alpha": 1024}, {("/lora_alpha", "CFG016", "note")}),
    "weak": ({"lora_alpha": 0.5}, {("/lora_alpha", "CFG016", "note")}),
    "rank-stabilised": (
        {"lora_alpha": 256, "use_rslora": True}, {("/lora_alpha", "CFG016", "note")}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_configs(name: str) -> None:
    changes, expected = SPOILED[name]
    config = {key: value for key, value in {**GOOD, **changes}.items() if value is not OUT}
    found = look(config, files=WEIGHTS)
    assert {(each.pointer, code, level) for code, level, each in found} == expected
    assert len(found) == len(expected), "once each"


def test_each_check_has_a_case() -> None:
    cases = {code for _, expected in SPOILED.values() for _, code, _ in expected}
    assert cases | {"CFG001", "CFG002", "CFG003"} == {f"CFG{n:03}" for n in range(1, 17)}


SUGGESTED = {
    "Write 8, without quotes.": {"r": "8"},
    "Write 8.": {"r": 8.0},
    "Write false, without quotes.": {"use_dora": "False"},
    'Did you mean "lora_only"?': {"bias": "lora"},
    'Did you mean "CAUSAL_LM"?': {"task_type": "causal_LM"},
    'Write ["lm_head"].': {"modules_to_save": "lm_head"},
    "Did you mean r?": {"lora_rank": 8},
    "Did you mean lora_alpha?": {"alpha": 8},
    "Did you mean target_modules?": {"target-module": []},
    "It is a field of LOKR.": {"decompose_factor": 8},
    'Write ["q_proj", "v_proj"].': {"target_modules": "['q_proj', 'v_proj']"},
    'Write "IA3".': {"peft_type": "ia3"},
    "Use PEFT 0.18.1, or train anew as MISS.": {"peft_type": "BONE", "lora_alpha": OUT},
}


@pytest.mark.parametrize("hint", SUGGESTED)
def test_what_was_meant_is_suggested(hint: str) -> None:
    config = {k: v for k, v in {**GOOD, **SUGGESTED[hint]}.items() if v is not OUT}
    ((_, _, found),) = look(config)
    assert found.hint == hint


def test_what_was_expected_is_said() -> None:
    def text(**changes: Any) -> str:
        ((_, _, found),) = look({**GOOD, **changes})
        return found.text

    assert text(r="8") == 'r is "8", expected is a whole number'
    assert text(exclude_modules=3) == (
        "exclude_modules is 3, expected is a list of names or text or null"
    )
    assert text(bias=False) == 'bias is false, expected is one of "none", "all", "lora_only"'
    assert text(lora_dropout=2) == "lora_dropout is 2, expected is at most 1"
    assert text(rank_pattern=None) == "rank_pattern is null, expected is an object"
    assert text(layer_replication=[[1]]) == (
        "layer_replication/0 is a list of 1, expected is a list of 2"
    )


def specs(*names: str) -> Weights:
    """Give weights with tensors of these names."""
    tensors = {n: TensorSpec(n, "F32", (2, 2), "w", 0, 16) for n in names}
    return Weights(file="w", tensors=tensors)


def test_weights_know_whether_a_module_is_called_just_so() -> None:
    config = {**GOOD, "target_modules": "proj"}
    inside = specs("base_model.model.layers.0.proj.lora_A.weight")
    whole = specs("base_model.model.proj.lora_A.weight")
    assert errors(config, weights=inside) == {"CFG011"}
    assert errors(config, weights=whole) == set()
    assert errors({**GOOD, "target_modules": "lm_head"}, weights=inside) == {"CFG011"}


def test_a_config_without_weights_may_still_be_filled_in() -> None:
    ((code, level, _),) = look({**GOOD, "lora_alpha": None})
    assert (code, level) == ("CFG009", "warning")


def test_reading_with_a_certain_peft() -> None:
    config = {**GOOD, "use_dora": True, "lora_bias": False, "peft_version": "0.18.1"}

    def levels(version: str) -> set[tuple[str, str, str]]:
        return {(f.pointer, c, level) for c, level, f in look(config, peft_version=version)}

    assert levels("0.18.1") == levels("0.21.2") == set()
    assert levels("0.14.0") == {("/peft_version", "CFG007", "warning")}
    assert levels("0.13.2") == {
        ("/peft_version", "CFG007", "error"), ("/lora_bias", "CFG007", "error")}  # fmt: skip
    assert {p for p, _, _ in levels("0.8.2")} == {"/peft_version", "/lora_bias", "/use_dora"}
    defaults = {**GOOD, "kasa_config": None}
    assert [level for _, level, _ in look(defaults, peft_version="0.20.0")] == ["note"]
    vera = {"peft_type": "VERA", "target_modules": ["q"], "inference_mode": True}
    assert errors(vera, peft_version="0.10.0") >= {"CFG004"}
    assert errors(vera, peft_version="0.11.0") == set()
    bone = {**vera, "peft_type": "BONE"}
    assert errors(bone, peft_version="0.18.1") == set()
    assert errors(bone, peft_version="0.19.0") == {"CFG004"}


def test_rules_count_from_their_release_on() -> None:
    old = {"peft_type": "OFT", "r": 8, "target_modules": ["q"], "inference_mode": True}
    assert errors(old, peft_version="0.13.2") == set()
    assert errors(old, peft_version="0.14.0") == {"CFG013"}
    assert errors(old) == {"CFG013"}


@pytest.mark.parametrize(
    "version",
    ["0.18.1", "0.3.0", "1.0", "0.19.0rc1", "0.18.2.dev0", "0.18.2.dev0@UNKNOWN", "0.21.0+local",
     "0.17.1.post1", "0.18.2.dev0@5d602fdb", "2"],
)  # fmt: skip
def test_versions_are_those_of_packaging(version: str) -> None:
    theirs = packaging.version.Version(version.partition("@")[0])
    ours = _peft.release(version)
    assert ours is not None
    assert (ours.number, ours.finished) == (theirs.release, not theirs.is_prerelease)


@pytest.mark.parametrize("version", ["latest", "", "v", "0.18.x", None, 18, "1" * 50, "1..2"])
def test_what_is_no_version(version: object) -> None:
    assert _peft.release(version) is None


def test_implied_minimum() -> None:
    assert _peft.implied_minimum({"peft_type": "LORA", "r": 8}) == "0.0.1"
    assert _peft.implied_minimum({**GOOD, "use_dora": False}) == "0.9.0"
    assert _peft.implied_minimum({**GOOD, "exclude_modules": None, "revision": None}) == "0.14.0"
    assert _peft.implied_minimum({"peft_type": "SHADOW"}) == "0.21.0"
    assert _peft.implied_minimum({"peft_type": "x"}) == ""


# Findings in real configs that are no mere hygiene, each looked at.
TRUE_FINDINGS = {
    ("008.json", "CFG006"),  # two fields that C3A does not have, in an experiment of PEFT's own
    ("243.json", "CFG007"),  # OFT's patterns, gone since 0.15, in another
    ("061.json", "CFG007"), ("146.json", "CFG007"), ("148.json", "CFG007"),
    ("306.json", "CFG007"), ("310.json", "CFG007"),  # enable_lora of before 0.3
}  # fmt: skip


@real
def test_real_configs() -> None:
    seen = set()
    for path in WILD:
        if dialect(path.read_bytes()) == "peft":
            for code, level, _ in look(path.read_bytes(), files=WEIGHTS):
                assert level != "error", path.name
                seen.add((path.name, code))
    hygiene = {"CFG012", "CFG014"}
    assert {(name, code) for name, code in seen if code not in hygiene} == TRUE_FINDINGS
    assert len({name for name, code in seen if code == "CFG014"}) == 47


def explained(path: Path) -> set[str]:
    """Give the errors that a file of an older PEFT has with the newest."""
    if path.stem == "BONE":
        return {"CFG004"}  # gone since 0.19.0
    if path.stem == "OFT" and path.parent.name in ("0.8.2", "0.10.0", "0.12.0"):
        return {"CFG013"}  # its weights cannot be loaded since 0.14.0
    return set()


@real
@pytest.mark.parametrize("path", GENERATED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_what_peft_wrote(path: Path) -> None:
    data, version = path.read_bytes(), path.parent.name
    assert errors(data) == explained(path)
    found = {code for code, _, _ in look(data, peft_version=version)}
    # A config of defaults is not to be published, and names no modules; nothing else is said.
    assert found <= {"CFG009", "CFG012", "CFG014"}
    assert errors(data, peft_version=version) == set()


TEXTS: dict[str, tuple[bytes, str, str]] = {
    "mark": (b'\xef\xbb\xbf{"peft_type": "LORA"}', "CFG001", "byte order mark"),
    "cut": (b'{"peft_type": "LORA", "r"', "CFG001", "no JSON"),
    "list": (b"[1, 2]", "CFG001", "a list of 2, not an object"),
    "number": (b'"LORA"', "CFG001", 'holds "LORA"'),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "CFG001", "64 deep"),
    "twice": (b'{"peft_type": "LORA", "r": 1, "r": 2}', "CFG002", "'r' is there twice"),
    "NaN": (b'{"peft_type": "LORA", "lora_alpha": NaN}', "CFG002", "NaN"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    data, code, words = TEXTS[name]
    found = [f for c, _, f in look(data, files=WEIGHTS) if c == code]
    assert len(found) == 1
    assert words in found[0].text
    assert code in errors(data, files=WEIGHTS)


def test_a_pointer_to_the_file_is_no_fault_of_the_config() -> None:
    assert look(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n") == []


@pytest.mark.parametrize("kind", ["mlx", "tunix", "lerobot", "adapterhub", "unknown"])
def test_other_dialects_are_named_and_left_alone(kind: str) -> None:
    configs = {
        "mlx": {"fine_tune_type": "lora", "r": "8"},
        "tunix": {"framework": "jax-tunix-qwix", "lora_rank": 8},
        "lerobot": {"base_model": "lerobot/smolvla_base"},
        "adapterhub": {"config": {}, "model_type": "bert"},
        "unknown": {"kismet_monitoring": "x"},
    }
    ((code, level, found),) = look(configs[kind])
    assert (code, level) == ("CFG003", "note")
    assert found.text


def test_lines_and_columns(tmp_path: Path) -> None:
    folder = tiny.adapter(tmp_path / "a")
    text = '{\r\n  "peft_type": "LORA",\r\n  "rank": 8,\r\n  "target_modules": ["q", 1],\r\n'
    text += '  "eva_config": {"rho": 0.5}, "r": "8"\r\n}'
    (folder / tiny.CONFIG_FILE).write_bytes(text.encode())
    report = at.validate(folder, select=("CFG005", "CFG006", "CFG009"))
    assert {(f.pointer, f.line, f.column) for f in report.findings} == {
        ("/rank", 3, 3),  # the name is what is wrong
        ("/target_modules/1", 4, 27),
        ("/eva_config/rho", 5, 25),
        ("/r", 5, 36),
    }


def test_a_folder_without_config(tmp_path: Path) -> None:
    folder = tiny.adapter(tmp_path / "a")
    (folder / tiny.CONFIG_FILE).unlink()
    report = at.validate(folder, select=("CFG",))
    assert [(f.code, f.level) for f in report.findings] == [("CFG001", "error")]
    assert len(report.skipped) >= 14


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
FIELDS = sorted({f for kind in _peft.types() for f in _peft.schema_of(kind)["properties"]})


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(_peft.types()),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), json_values, max_size=8),
    st.sampled_from([None, "0.13.0", "9.0.0", "latest"]),
)
def test_nothing_in_a_config_breaks_a_check(kind: str, said: dict[str, Any], peft: str) -> None:
    for _, _, found in look({**said, "peft_type": kind}, files=WEIGHTS, peft_version=peft):
        assert found.text.isprintable()
        assert found.hint.isprintable()
        assert len(found.text) < 1000


HOSTILE: dict[str, Any] = {
    "unknown keys": {f"key{i}": i for i in range(50_000)},
    "wrong items": {"target_modules": list(range(50_000))},
    "broken patterns": {"rank_pattern": {f"({i}": "x" for i in range(20_000)}},
    "endless expression": {"target_modules": "(a|a)*" * 600 + "b"},
    "nested expression": {"target_modules": "(" * 2000 + "a" + ")*" * 2000},
    "long value": {"bias": "x" * 4_000_000, "y" * 500_000: 1},
    "long expression": {"target_modules": "[" + "'a'," * 500_000 + "]"},
    "absurd numbers": {"r": 10**39, "lora_alpha": 10**39, "rank_pattern": {"a": 10**39}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configs_take_no_time(name: str) -> None:
    start = time.process_time()
    found = look({**GOOD, **HOSTILE[name]}, files=WEIGHTS)
    assert bool(found) is not name.endswith("expression") or name == "long expression"
    assert all(len(each.text) < 1000 and len(each.hint) < 1000 for _, _, each in found)
    assert time.process_time() - start < 10


def test_a_config_is_judged_quickly() -> None:
    config = json.loads((tiny.EXAMPLES / "CFG004-good" / tiny.CONFIG_FILE).read_text("utf-8"))
    look(config)
    start = time.process_time()
    for _ in range(50):
        look(dict(config), files=WEIGHTS)
    assert (time.process_time() - start) / 50 < 0.02, "ten times what it takes"
