"""Whatever a stranger writes into config, weights, card or tokenizer: a report comes of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import adaptertools as at
from adaptertools import serving
from adaptertools.checks import _peft
from tests.checks import tiny
from tests.checks.make_tok import tokenizer

# Values of every JSON type, and where code expects another.
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, "", "x", "(((", "\n::error::\x1b[31m", [], [None], [[]], [{}],
    ["x", 1, None], {}, {"x": None}, {"(": 1}, {"q_proj": "x"}, {"q_proj": 10**30}, [[1, 2], "x"],
)  # fmt: skip
FIELDS = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern",
    "alpha_pattern", "layers_to_transform", "layers_pattern", "bias", "use_dora", "use_rslora",
    "init_lora_weights", "target_parameters", "trainable_token_indices", "task_type", "revision",
    "base_model_name_or_path", "peft_version", "lora_bias", "ensure_weight_tying", "auto_mapping",
    "layer_replication", "num_virtual_tokens", "token_dim", "num_layers", "init_weights",
    "num_transformer_submodules", "peft_type", "loftq_config", "lora_dropout",
)  # fmt: skip
CARD = ("base_model", "license", "license_name", "library_name", "datasets", "language")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tiny.adapter(tmp_path / "adapter")
    tiny.base(tmp_path / "base")
    tokenizer(made, 4, {"<a>": 4})
    return made


def judge(folder: Path, **how: Any) -> at.Report:
    """Validate with everything on; every finding is one printable line."""
    report: at.Report = at.validate(folder, base=folder.parent / "base", deep=True, **how)
    for finding in report.findings:
        assert finding.text.isprintable(), finding
        assert finding.hint.isprintable(), finding
        assert finding.place.isprintable(), finding
    json.dumps(report.as_json())
    return report


@pytest.mark.parametrize("field", FIELDS)
def test_odd_values(field: str, folder: Path) -> None:
    for value in ODD:
        tiny.set_config(folder, **{field: value})
        judge(folder, target="plain", peft_version="0.13.0")


@pytest.mark.parametrize("kind", _peft.types())
def test_every_method(kind: str, folder: Path) -> None:
    tiny.set_config(folder, peft_type=kind)
    judge(folder)


@pytest.mark.parametrize("target", serving.known())
def test_every_target(target: str, folder: Path) -> None:
    for value in ODD:
        tiny.set_config(folder, r=value, target_modules=value, init_lora_weights=value)
        judge(folder, target=target)


@pytest.mark.parametrize("field", CARD)
def test_odd_cards(field: str, folder: Path) -> None:
    for value in ODD:
        front = json.dumps({"library_name": "peft", field: value})
        (folder / "README.md").write_text(f"---\n{front}\n---\n")
        judge(folder)


@pytest.mark.parametrize(
    "front",
    ['a: !!int ""', "a: !!bool x", "a: !!timestamp x", "a: !!python/object:os.system x", "- a",
     "a: &x [1]\nb: *x", "a: [", "? [a]\n: b", "a: 2001-99-99", "{" * 30_000, "- " * 30_000,
     "a: " + "b" * 70_000, "\x07", '!!float ""'],
)  # fmt: skip
def test_front_matter_that_is_none(front: str, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    assert "CRD001" in {f.code for f in judge(folder).findings}


@pytest.mark.parametrize("file", ["tokenizer.json", "added_tokens.json", "vocab.json"])
def test_odd_tokenizers(file: str, folder: Path) -> None:
    for value in (*ODD, {"model": 1, "added_tokens": 1}, {"model": {"vocab": {"a": "b"}}},
                  {"added_tokens": [{"id": "x"}, 1, {"id": 1, "content": None}]}):  # fmt: skip
        tiny.write_json(folder / file, value)
        judge(folder)
    (folder / file).write_bytes(b"\xff{")
    judge(folder)


ODD_NAMES = (
    "", ".", "..", "lora_A", "lora_A.weight", "base_model.model.", "base_model.model.lora_A.weight",
    "base_model.model.a.lora_A.weight.weight", "a\n::error::b", "\x1b[31m", "../../x", "ü.lora_B.x",
    "base_model.model.model.layers.99999999999999.q_proj.lora_A.weight", "base_model.model.lm_head",
    "base_model.model.layers.0.q_proj.lora_embedding_A", "token_adapter.trainable_tokens_delta",
)  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (2,), (2, 0), (2, 2), (2, 2, 2)])
@pytest.mark.parametrize("dtype", ["f4", "i8", "?", "f8", "u1"])
def test_odd_tensors(shape: tuple[int, ...], dtype: str, folder: Path) -> None:
    for i in range(0, len(ODD_NAMES), 3):
        held = {name: np.zeros(shape, dtype) for name in ODD_NAMES[i : i + 3]}
        save_file(held, folder / tiny.WEIGHTS_FILE, {"lora_adapter_metadata": '{"r": [1]}'})
        judge(folder, target="vllm")


@pytest.mark.parametrize("inner", ["[]", "1", "{", '{"r": {}}', '{"a.r": 1.5}', "[" * 100_000])
def test_odd_metadata(inner: str, folder: Path) -> None:
    tiny.set_tensors(folder, lambda held: held, {"lora_adapter_metadata": inner})
    judge(folder)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "IA3", "LOHA", "LOKR", "VERA"])
def test_odd_values_of_other_methods(kind: str, folder: Path) -> None:
    names = ("prompt_embeddings", "base_model.model.q.ia3_l", "base_model.model.q.hada_w2_b",
             "base_model.model.q.lokr_w1", "base_model.model.q.vera_lambda_b")  # fmt: skip
    tiny.set_tensors(folder, lambda _: {name: np.zeros((2, 2), "f4") for name in names})
    for value in ODD:
        tiny.set_config(
            folder, peft_type=kind, num_virtual_tokens=3, token_dim=8, num_layers=value,
            num_transformer_submodules=value,
        )  # fmt: skip
        judge(folder)


def test_odd_bases(folder: Path) -> None:
    path = folder.parent / "base" / "config.json"
    config = json.loads(path.read_text())
    for key in ("vocab_size", "num_hidden_layers", "tie_word_embeddings", "text_config",
                "num_nextn_predict_layers", "dtype", "is_encoder_decoder"):  # fmt: skip
        for value in ODD:
            path.write_text(json.dumps({**config, key: value}))
            judge(folder, target="ollama")
