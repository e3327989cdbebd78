"""The finer points of the BAS, TOK and CRD checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adaptertools as at
from adaptertools.report import Finding
from tests.checks import tiny
from tests.checks.make_bas import NAME
from tests.checks.make_tok import embeddings, tokenizer

EMBED = "base_model.model.model.embed_tokens.weight"
HEAD = "base_model.model.lm_head.weight"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "adapter")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.base(tmp_path / "base")


def found(folder: Path, code: str, **how: Any) -> list[Finding]:
    """Give what one check finds."""
    report = at.validate(folder, select=[code], **how)
    assert report.facts["checks_run"] == [code], report.skipped
    return list(report.findings)


# Names that people published, and what is said of them.
NAMES = {
    "meta-llama/Llama-3.1-8B": [],
    "/content/drive/llama": ["BAS002 error"],
    "../llama-7b-hf": ["BAS002 error"],
    "./flan": ["BAS002 error"],
    "~/models/x": ["BAS002 error"],
    "C:\\models\\x": ["BAS002 error"],
    "your/download/path/to/codonbert": ["BAS002 error"],
    "https://huggingface.co/gpt2": ["BAS002 error"],
    "models/chatglm-6b": ["BAS002 warning"],
    "path/model": ["BAS002 warning"],
    "your-org/model": ["BAS002 warning"],
    "llama-7b-hf/": ["BAS002 warning"],
    "<base model>": ["BAS002 warning", "BAS003 warning"],
    "gpt2": ["BAS003 warning"],
    "gemma_2b": ["BAS003 warning"],
    "": ["BAS001 warning"],
    "  ": ["BAS001 warning"],
    "unsloth/llama-3-8b-bnb-4bit": ["BAS006 warning"],
    "TheBloke/Llama-2-7B-GPTQ": ["BAS006 warning"],
    "Qwen/Qwen2.5-7B-Instruct-AWQ": ["BAS006 warning"],
    "org/eight-bit-heroes": [],
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, adapter: Path) -> None:
    tiny.set_config(adapter, **{NAME: name})
    report = at.validate(adapter, select=["BAS"])
    assert [f"{f.code} {f.level}" for f in report.findings if f.code != "BAS004"] == NAMES[name]


def test_an_old_name_is_told_its_owner(adapter: Path) -> None:
    tiny.set_config(adapter, **{NAME: "gpt2"})
    (only,) = found(adapter, "BAS003")
    assert "openai-community/gpt2" in only.hint


@pytest.mark.parametrize(
    ("answer", "level"),
    [("ok", None), ("missing", "error"), ("gated", "note"), ("moved: other/name", "warning")],
)
def test_the_hub_answers(answer: str, level: str | None, adapter: Path) -> None:
    asked: list[str] = []

    def online(name: str) -> str:
        asked.append(name)
        return answer

    every = found(adapter, "BAS005", online=online)
    assert [f.level for f in every] == ([level] if level else [])
    assert asked == [tiny.BASE]


def test_the_hub_is_not_asked_about_a_path(adapter: Path) -> None:
    tiny.set_config(adapter, **{NAME: "/mnt/disk/model"})
    assert found(adapter, "BAS005", online={}.__getitem__) == []


def test_a_deeper_base_is_a_warning(adapter: Path, tmp_path: Path) -> None:
    base = tiny.base(tmp_path / "deep", num_hidden_layers=4)
    (only,) = found(adapter, "BAS007", base=base)
    assert only.level == "warning"
    tiny.set_config(adapter, layers_to_transform=[0, 1])
    assert found(adapter, "BAS007", base=base) == []


def test_sizes(adapter: Path, base: Path) -> None:
    assert found(adapter, "BAS007", base=base) == []
    # v_proj has half the rows, as there is one key-value head for two heads.
    name = f"{tiny.START}0.self_attn.v_proj.lora_B.weight"
    tiny.set_tensors(adapter, lambda held: {**held, name: tiny.noise(8, 2)})
    (only,) = found(adapter, "BAS007", base=base)
    assert "the update is [8, 8], the base's weight [4, 8]" in only.text


def test_a_swapped_pair_fits_no_linear_module(adapter: Path, base: Path) -> None:
    stem = f"{tiny.START}0.mlp.up_proj.lora"
    right = {f"{stem}_A.weight": tiny.noise(2, 8), f"{stem}_B.weight": tiny.noise(16, 2)}
    swapped = {f"{stem}_A.weight": tiny.noise(2, 16), f"{stem}_B.weight": tiny.noise(8, 2)}
    tiny.set_tensors(adapter, lambda held: held | right)
    assert found(adapter, "BAS007", base=base) == []
    tiny.set_tensors(adapter, lambda held: held | swapped)
    assert len(found(adapter, "BAS007", base=base)) == 1


def test_modules_that_are_not_in_the_base(adapter: Path, base: Path) -> None:
    tiny.set_tensors(adapter, lambda t: {n.replace("q_proj", "qkv"): a for n, a in t.items()})
    (only,) = found(adapter, "BAS007", base=base)
    assert "2 adapted modules are not in the base" in only.text


def test_prefixes_differ_between_releases(adapter: Path, base: Path) -> None:
    """Transformers 5 moved the language model of models that see: names differ in front only."""
    tiny.set_tensors(
        adapter,
        lambda t: {n.replace("model.layers", "model.language_model.layers"): a
                   for n, a in t.items()},
    )  # fmt: skip
    assert found(adapter, "BAS007", base=base) == []


def test_each_tower_has_its_own_depth(adapter: Path, tmp_path: Path) -> None:
    base = tiny.base(
        tmp_path / "seeing", num_hidden_layers=tiny.DROP, text_config={"num_hidden_layers": 2},
        vision_config={"num_hidden_layers": 27},
    )  # fmt: skip
    (base / "model.safetensors").unlink()

    def vision(layer: int) -> Any:
        stem = f"base_model.model.model.vision_tower.encoder.layers.{layer}.q_proj"
        return lambda t: t | {f"{stem}.lora_A.weight": tiny.noise(2, 8),
                              f"{stem}.lora_B.weight": tiny.noise(8, 2)}  # fmt: skip

    tiny.set_tensors(adapter, vision(26))
    assert found(adapter, "BAS007", base=base) == []
    tiny.set_tensors(adapter, vision(27))
    (only,) = found(adapter, "BAS007", base=base)
    assert "it has 27" in only.text


@pytest.mark.parametrize(
    ("rows", "with_tokenizer", "level"),
    [(12, False, None), (11, False, "error"), (13, False, "error"), (13, True, "warning")],
)
def test_vocabulary(
    rows: int, with_tokenizer: bool, level: str | None, adapter: Path, base: Path
) -> None:
    embeddings(adapter, rows)
    if with_tokenizer:
        tokenizer(adapter, tiny.VOCAB, {"<new>": tiny.VOCAB})
    assert [f.level for f in found(adapter, "BAS008", base=base)] == ([level] if level else [])


def test_vocabulary_of_adapted_embeddings(adapter: Path, base: Path) -> None:
    stem = "base_model.model.model.embed_tokens.lora_embedding"
    for columns, count in ((tiny.VOCAB, 0), (tiny.VOCAB + 4, 1)):
        factors = {f"{stem}_A": tiny.noise(2, columns), f"{stem}_B": tiny.noise(8, 2)}
        tiny.set_tensors(adapter, lambda held, more=factors: held | more)
        assert len(found(adapter, "BAS008", base=base)) == count


@pytest.mark.parametrize(("tokens", "count"), [([1, 11], 0), ([1, 12], 1), ({"wte": [99]}, 1)])
def test_trained_tokens_that_the_base_does_not_have(
    tokens: Any, count: int, adapter: Path, base: Path
) -> None:
    tiny.set_config(adapter, trainable_token_indices=tokens)
    assert len(found(adapter, "BAS008", base=base)) == count


def test_files_know_of_ties_where_the_config_is_silent(adapter: Path, tmp_path: Path) -> None:
    tiny.set_tensors(adapter, lambda held: {**held, EMBED: tiny.noise(tiny.VOCAB, tiny.WIDTH)})
    untied = tiny.base(tmp_path / "untied", tie_word_embeddings=tiny.DROP)
    assert found(adapter, "BAS009", base=untied) == []
    tied = tiny.base(tmp_path / "tied", tie_word_embeddings=tiny.DROP)
    from safetensors.numpy import load_file, save_file

    held = load_file(tied / "model.safetensors")
    del held["lm_head.weight"]
    save_file(held, tied / "model.safetensors")
    assert len(found(adapter, "BAS009", base=tied)) == 1
    tiny.set_config(adapter, ensure_weight_tying=True)
    assert found(adapter, "BAS009", base=tied) == []


@pytest.mark.parametrize(
    ("task", "config", "count"),
    [
        ("CAUSAL_LM", {}, 0),
        ("CAUSAL_LM", {"is_encoder_decoder": True}, 1),
        ("SEQ_2_SEQ_LM", {}, 1),
        ("SEQ_2_SEQ_LM", {"architectures": ["XForConditionalGeneration"]}, 0),
        ("SEQ_2_SEQ_LM", {"is_encoder_decoder": True}, 0),
        ("TOKEN_CLS", {}, 1),
        ("TOKEN_CLS", {"architectures": ["LlamaForTokenClassification"]}, 0),
        (None, {"is_encoder_decoder": True}, 0),
    ],
)
def test_tasks(
    task: str | None, config: dict[str, Any], count: int, adapter: Path, tmp_path: Path
) -> None:
    tiny.set_config(adapter, task_type=task)
    assert len(found(adapter, "BAS010", base=tiny.base(tmp_path / "b", **config))) == count


@pytest.mark.parametrize(
    ("size", "added", "count"),
    [
        (12, {}, 0),
        (12, {"<a>": 12, "<b>": 13}, 0),
        (12, {"<pad>": 0}, 0),  # added, and in the vocabulary too
        (12, {"<a>": 13}, 1),
        (12, {"<a>": 12, "<b>": 12}, 2),
    ],
)
def test_added_tokens(size: int, added: dict[str, int], count: int, adapter: Path) -> None:
    tokenizer(adapter, size, added)
    assert bool(found(adapter, "TOK002")) == bool(count)


def test_a_tokenizer_as_large_as_the_base(adapter: Path, base: Path) -> None:
    tokenizer(adapter, tiny.VOCAB - 1, {"<a>": tiny.VOCAB - 1})
    assert found(adapter, "TOK001", base=base) == []


def test_a_chat_template_is_spoken_of(adapter: Path) -> None:
    tiny.write_json(adapter / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    (only,) = found(adapter, "TOK003")
    assert "chat template" in only.text


def card(adapter: Path, front: str, body: str = "") -> None:
    (adapter / "README.md").write_text(f"---\n{front}\n---\n{body}", "utf-8")


@pytest.mark.parametrize(
    ("said", "named", "level"),
    [
        ("gpt2", "openai-community/gpt2", None),
        ("openai-community/gpt2", "gpt2", None),
        ("Meta-Llama/Llama-2-7B", "meta-llama/Llama-2-7b", None),
        ("[a/b, c/d]", "c/d", None),
        ("other/gpt2", "openai-community/gpt2", "error"),
        ("null", "a/b", "warning"),
        ("a/b", None, None),
    ],
)
def test_card_and_config(said: str, named: str | None, level: str | None, adapter: Path) -> None:
    tiny.set_config(adapter, **{NAME: named})
    card(adapter, f"base_model: {said}")
    assert [f.level for f in found(adapter, "CRD002")] == ([level] if level else [])


@pytest.mark.parametrize(
    ("licence", "base", "levels"),
    [
        ("license: mit", "a/b", []),
        ("license: other", "a/b", ["warning"]),
        ("license: other\nlicense_name: mine", "a/b", []),
        ("license_name: mine", "a/b", []),
        ("license: mit", "meta-llama/Llama-3.1-8B", ["note"]),
        ("license: llama3.1", "meta-llama/Llama-3.1-8B", []),
        ("license: mit", "google/gemma-2b", ["note"]),
        ("license: apache-2.0", "google/gemma-3-1b-it", ["note"]),
        ("license: mit", "org/ollama-tools", []),
        ("a: b", "a/b", ["warning"]),
    ],
)
def test_licences(licence: str, base: str, levels: list[str], adapter: Path) -> None:
    tiny.set_config(adapter, **{NAME: base})
    card(adapter, licence)
    assert [f.level for f in found(adapter, "CRD004")] == levels


def test_cards_of_other_editors(adapter: Path) -> None:
    text = "\ufeff---\r\nlibrary_name: peft\r\n--- \r\n# Card\r\n"
    (adapter / "README.md").write_bytes(text.encode())
    assert found(adapter, "CRD001") == []


def test_packed_bases_are_known_by_their_config(adapter: Path, tmp_path: Path) -> None:
    packed = tiny.base(tmp_path / "packed", quantization_config={"quant_method": "gptq"})
    (only,) = found(adapter, "BAS006", base=packed)
    assert "gptq" in only.text
    name = f"{tiny.START}0.self_attn.v_proj.lora_B.weight"
    tiny.set_tensors(adapter, lambda held: {**held, name: np.zeros((99, 2), "f4")})
    assert found(adapter, "BAS007", base=packed) == []  # its shapes are those of the packing
