"""What PEFT itself refuses is an error here: PEFT is the oracle, by trying.

The other way round does not hold, and is the point: PEFT takes much that does not work.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from adaptertools.checks import _peft
from tests.checks.look import GOOD, errors, look

CLASSES = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
WEIGHTS = ("adapter_model.safetensors",)
VALUES: tuple[Any, ...] = (
    None, "8", "bogus", "", -1, 0, 1, 3, 1.5, -0.5, [], ["a"], [1], [["a"]], {}, {"a": 1},
    {"a": "b"}, True, False, 10**6, float("nan"),
)  # fmt: skip
# What a config of the type needs, that it can be loaded at all.
NEEDED: dict[str, dict[str, Any]] = {
    "ADAPTION_PROMPT": {"target_modules": "self_attn"},
    "ADALORA": {"total_step": 100, "tinit": 1, "tfinal": 1},
    "CPT": {"task_type": "CAUSAL_LM", "cpt_token_ids": [0, 1], "cpt_mask": [1, 1],
            "cpt_tokens_type_mask": [1, 1]},
    "OFT": {"oft_block_size": 32, "r": 0, "peft_version": "0.21.2"},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "CARTRIDGE": {"num_virtual_tokens": 4},
}  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        _peft.number(peft.__version__) != _peft.number(_peft.newest()),
        reason=f"the rules are those of PEFT {_peft.newest()}",
    ),
]


def start(kind: str) -> dict[str, Any]:
    """Give a config of the type that PEFT takes."""
    fields = _peft.schema_of(kind)["properties"]
    targets = {"target_modules": ["q_proj"]} if "target_modules" in fields else {}
    return {"peft_type": kind, "inference_mode": True, **targets, **NEEDED.get(kind, {})}


def refused(kind: str, config: dict[str, Any]) -> BaseException | None:
    """Load a config as PeftModel.from_pretrained does; give what is raised."""
    text = json.dumps(config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kept = CLASSES[kind].check_kwargs(**json.loads(text))
            CLASSES[kind].from_peft_type(**json.loads(json.dumps(kept)))
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_one_field_at_a_time(kind: str) -> None:
    assert refused(kind, start(kind)) is None or kind == "ADAMSS", "that wants scikit-learn"
    assert errors(start(kind)) == set()
    raised = 0
    for field in _peft.schema_of(kind)["properties"]:
        for value in VALUES:
            config = {**start(kind), field: value}
            why = refused(kind, config)
            if why is not None and not isinstance(why, ImportError):
                raised += 1
                assert errors(config), (field, value, why)
    assert raised > 20


def allowed(rule: dict[str, Any], chance: random.Random) -> Any:
    """Give a value that a field can have."""
    if "enum" in rule:
        return chance.choice(rule["enum"])
    kinds = rule.get("type", "string")
    numbers = rule.get("items", {}).get("type") == "integer"
    return {
        "null": None,
        "boolean": chance.random() < 0.5,
        "integer": chance.choice([0, 1, 2, 3, 4, 7, 100]),
        "number": chance.choice([-1.0, 0.0, 0.5, 1.0, 2.0]),
        "string": chance.choice(["q_proj", "TEXT", "loftq", "CAUSAL_LM", "orthogonal", "olora"]),
        "array": [1, 2] if numbers else chance.choice([["q_proj"], ["v_proj"]]),
        "object": {},
    }[kinds if isinstance(kinds, str) else chance.choice(kinds)]


def several(seed: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give configs in which several fields were changed, each to something it can be."""
    chance = random.Random(seed)
    for _ in range(count):
        kind = chance.choice(sorted(CLASSES))
        fields = _peft.schema_of(kind)["properties"]
        config = start(kind)
        for name in chance.sample(sorted(fields), min(len(fields), chance.randint(1, 8))):
            if name != "peft_type":
                config[name] = allowed(fields[name], chance)
        if chance.random() < 0.1:
            config.pop(chance.choice(sorted(config.keys() - {"peft_type"})))
        yield kind, config


# Rules of the layers, which are built later; their own test follows.
LATER = ("several variants", "target_parameters does not", "init_lora_weights is orthogonal")


def test_several_fields_at_once() -> None:
    raised = ruled = 0
    for kind, config in several(0, 8000):
        why = refused(kind, config)
        if isinstance(why, ImportError):
            continue
        if why is not None:
            raised += 1
            assert errors(config), (config, why)
        else:
            broken = [f.text for code, _, f in look(config) if code == "CFG013"]
            assert all(text.startswith(LATER) for text in broken), (config, broken)
        ruled += "CFG013" in errors(config)
    assert raised > 500
    assert ruled > 300


class Block(nn.Module):
    """A layer with a linear module and a tensor of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(8, 8)
        self.experts = nn.Parameter(torch.zeros(2, 8, 8))


class Model(nn.Module):
    """Two of them and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(8, 8)


EXPERTS = {"target_parameters": ["experts"]}
# What PEFT refuses only once it builds the layers, that is after the base model was loaded.
LATE: tuple[dict[str, Any], ...] = (
    {"r": "8"}, {"r": 8.0}, {"r": 0}, {"r": -4}, {"r": None}, {"lora_alpha": None},
    {"lora_alpha": "8"}, {"lora_dropout": 1.5}, {"lora_dropout": None},
    {"lora_dropout": "0"}, {"bias": "lora"}, {"bias": False}, {"init_lora_weights": "bogus"},
    {"init_lora_weights": "pissa_niter_x"}, {"init_lora_weights": "orthogonal", "r": 3},
    {"target_modules": []}, {"target_modules": {"a": 1}}, {"target_modules": "(q_proj"},
    {"target_modules": "['q_proj', 'v_proj']"}, {"target_modules": "q_proj"},
    {"target_modules": "q_proj,lm_head"}, {"target_modules": ""}, {"exclude_modules": "("},
    {"modules_to_save": ["("]}, {"layers_to_transform": [0], "layers_pattern": ["("]},
    {"layers_to_transform": "0"}, {"layer_replication": [[0, 1, 2]]}, {"rank_pattern": ["a"]},
    {"rank_pattern": None}, {"rank_pattern": {"q_proj": 0}}, {"rank_pattern": {"(q_proj": 4}},
    {"alpha_pattern": {"q_proj": "a"}}, {"alpha_pattern": {"q_proj": None}},
    {"trainable_token_indices": ["a"]}, {"use_dora": True, "kasa_config": {}},
    {"use_dora": True, "velora_config": {}}, {"use_dora": True, "alora_invocation_tokens": [1]},
    {"use_dora": True, "init_lora_weights": "mica"}, {**EXPERTS, "lora_dropout": 0.1},
    {**EXPERTS, "use_dora": True}, {**EXPERTS, "lora_bias": True},
    {**EXPERTS, "velora_config": {}}, {**EXPERTS, "kasa_config": {}},
)  # fmt: skip


def built(config: dict[str, Any]) -> None:
    """Load a config with PEFT and build its layers into a model."""
    inject_adapter_in_model(PeftConfig.from_peft_type(**json.loads(json.dumps(config))), Model())


@pytest.mark.parametrize("change", LATE, ids=str)
def test_what_is_refused_late(change: dict[str, Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011
        built({**GOOD, **change})
    assert errors({**GOOD, **change}, files=WEIGHTS)


@pytest.mark.parametrize(
    "change",
    [{}, {"use_dora": True}, {"use_rslora": True}, EXPERTS, {"target_modules": "lm_head"},
     {"target_modules": r".*\.q_proj"}, {"rank_pattern": {"0.q_proj": 4}}, {"lora_alpha": 0.5},
     {"init_lora_weights": "Gaussian"}, {"init_lora_weights": "pissa_niter_2"},
     {"target_modules": [], **EXPERTS}, {"target_modules": None, **EXPERTS},
     {"layers_to_transform": [1], "layers_pattern": "layers"}],
    ids=str,
)  # fmt: skip
def test_what_works_is_no_error(change: dict[str, Any]) -> None:
    config = {**GOOD, **change}
    built(config)
    assert errors(config, files=WEIGHTS) == set()


# Files as such. PEFT opens them in the locale's encoding, which is UTF-8 here.
FILES: dict[str, bytes] = {
    "empty": b"",
    "byte order mark": b'\xef\xbb\xbf{"peft_type": "LORA"}',
    "UTF-16": '{"peft_type": "LORA"}'.encode("utf-16"),
    "comment": b'{"peft_type": "LORA" /* */}',
    "comma": b'{"peft_type": "LORA",}',
    "single quotes": b"{'peft_type': 'LORA'}",
    "deep": b'{"peft_type": "LORA", "rank_pattern": ' + b'{"a":' * 99_000 + b"1" + b"}" * 99_001,
    "list": b'["peft_type"]',
    "word": b'"LORA"',
    "no type": b'{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}',
    "type null": b'{"peft_type": null}',
    "lower case": b'{"peft_type": "lora"}',
    "removed": b'{"peft_type": "BONE"}',
    "tomorrow's": b'{"peft_type": "TOMORROW"}',
    "a list of types": b'{"peft_type": ["LORA"]}',
    "task": b'{"peft_type": "LORA", "task_type": "TaskType.CAUSAL_LM"}',
    "no task": b'{"peft_type": "LORA", "task_type": ""}',
    "endless number": b'{"peft_type": "LORA", "r": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_peft_cannot_load(name: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(FILES[name])
    with pytest.raises(Exception):  # noqa: B017, PT011
        PeftConfig.from_pretrained(str(tmp_path))
    assert errors(FILES[name], files=WEIGHTS)


def test_what_peft_takes_without_a_word_is_found(tmp_path: Path) -> None:
    for change in (
        {"use_dora": "false"}, {"use_rslora": "no"}, {"lora_alpha": float("nan")}, {"r": 10**9},
    ):  # fmt: skip
        (tmp_path / "adapter_config.json").write_text(json.dumps({**GOOD, **change}))
        assert isinstance(PeftConfig.from_pretrained(str(tmp_path)), PeftConfig)
        assert errors({**GOOD, **change})
