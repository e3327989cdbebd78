"""A base on disk: one file or many, and every way in which its index and its files may disagree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adaptertools as at
from adaptertools import checkpoint
from adaptertools.errors import AdapterToolsError, NotFound, Unreadable, Unsafe, Unsupported
from tests import handmade

INDEX = "model.safetensors.index.json"


def read(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.read(folder, "the/base")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return handmade.base(tmp_path / "base", shards=3)


def change_map(folder: Path, **changes: Any) -> None:
    """Change entries of the index; None takes one out."""
    index = json.loads((folder / INDEX).read_text("utf-8"))
    weights = {**index["weight_map"], **changes}
    index["weight_map"] = {name: file for name, file in weights.items() if file is not None}
    handmade.write_json(folder / INDEX, index)


def test_single_file(tmp_path: Path) -> None:
    folder = handmade.base(tmp_path / "base")
    found = read(folder)
    assert (found.ref, found.folder, found.index) == ("the/base", str(folder), None)
    assert list(found.shards) == ["model.safetensors"]
    assert found.config == handmade.BASE_CONFIG
    assert found.model_type == "llama"
    expected = load_file(folder / "model.safetensors")
    assert {n: s.shape for n, s in found.tensors.items()} == {
        n: t.shape for n, t in expected.items()
    }


def test_indexed(sharded: Path) -> None:
    found = read(sharded)
    index = json.loads((sharded / INDEX).read_text("utf-8"))
    assert found.index == index
    assert list(found.shards) == sorted(set(index["weight_map"].values()))
    homes = {name: Path(spec.file).name for name, spec in found.tensors.items()}
    assert homes == index["weight_map"]


def test_the_index_wins_over_a_single_file(sharded: Path) -> None:
    save_file({"stale": np.zeros(2)}, sharded / "model.safetensors")
    assert "stale" not in read(sharded).tensors


def test_without_config(tmp_path: Path) -> None:
    folder = handmade.base(tmp_path / "base")
    (folder / "config.json").unlink()
    found = read(folder)
    assert (found.config, found.model_type) == ({}, "")


def test_no_model_type_is_empty(tmp_path: Path) -> None:
    assert read(handmade.base(tmp_path / "base", model_type=None)).model_type == ""


def test_index_names_what_a_shard_lacks(sharded: Path) -> None:
    change_map(sharded, ghost="model-00002-of-00003.safetensors")
    with pytest.raises(Unreadable, match=r"1 tensors: ghost of model-00002.*is not in it"):
        read(sharded)


def test_shard_holds_what_the_index_lacks(sharded: Path) -> None:
    change_map(sharded, **{"lm_head.weight": None})
    with pytest.raises(Unreadable, match=r"lm_head\.weight of .*is in it and not in the index"):
        read(sharded)


def test_tensor_in_two_shards(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text("utf-8"))["weight_map"]
    other = next(file for file in index.values() if file != index["lm_head.weight"])
    held = load_file(sharded / other)
    save_file({**held, "lm_head.weight": handmade.noise(12, 8)}, sharded / other)
    with pytest.raises(Unreadable, match=r"lm_head\.weight"):
        read(sharded)


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "a/b", "", ".", ".."])
def test_index_may_not_leave_its_folder(file: str, sharded: Path) -> None:
    (sharded.parent / "x.safetensors").write_bytes(b"")
    change_map(sharded, ghost=file)
    with pytest.raises(Unsafe, match="outside its folder"):
        read(sharded)


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(NotFound, match=r"model-00003-of-00003\.safetensors, which is not there"):
        read(sharded)


def test_damaged_shard(sharded: Path) -> None:
    path = sharded / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Unreadable, match=r"model-00002-of-00003\.safetensors is cut short"):
        read(sharded)


@pytest.mark.parametrize("value", [None, [], {"a": 1}, {"a": ["b"]}, "x"])
def test_index_without_a_map(value: Any, sharded: Path) -> None:
    handmade.change_json(sharded / INDEX, weight_map=value)
    with pytest.raises(Unreadable, match="no weight_map"):
        read(sharded)


def test_pickles_only(tmp_path: Path) -> None:
    folder = handmade.base(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(Unsupported, match=r"pytorch_model\*\.bin only.*pickles.*transformers"):
        read(folder)


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"is an adapter, and a base model was expected.*--base"):
        read(handmade.adapter(tmp_path / "adapter"))


def test_empty_folder_and_another(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Found: nothing"):
        read(tmp_path)
    (tmp_path / "evil\n.txt").write_text("x")
    with pytest.raises(NotFound, match=r"Found: evil\\n\.txt"):
        read(tmp_path)


def test_an_empty_quantisation_is_none(tmp_path: Path) -> None:
    assert read(handmade.base(tmp_path / "base", quantization_config={})).tensors


BAD_JSON: dict[str, tuple[bytes, str]] = {
    "not UTF-8": ('{"a": "ä"}'.encode("latin-1"), "is not UTF-8 text: byte 7"),
    "UTF-16": ("{}".encode("utf-16"), "is not UTF-8 text"),
    "cut short": (b'{"a": ', "is not JSON"),
    "too deep": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[]", "is not a JSON object"),
    "empty": (b"", "is not JSON"),
}


@pytest.mark.parametrize("case", BAD_JSON)
@pytest.mark.parametrize("file", ["config.json", INDEX])
def test_json_that_is_none(file: str, case: str, sharded: Path) -> None:
    raw, message = BAD_JSON[case]
    (sharded / file).write_bytes(raw)
    with pytest.raises(Unreadable, match=f"{file} {message}"):
        read(sharded)


ODD: dict[str, list[Any]] = {
    "architectures": [5, 1.5, True, "x", [["x"]], [{"a": 1}], [5], {"a": 1}, [], None],
    "id2label": [5, 1.5, True, "x", ["a"], [["a"]], {"0": 5}, {}, None],
    "model_type": [5, ["llama"], {"a": 1}, "", None],
    "tie_word_embeddings": [5, "x", [1], None],
    "num_hidden_layers": ["2", [2], 0, -1, None],
    "vocab_size": ["12", [12], -1, None],
    "text_config": [5, "x", ["x"], {"model_type": 5}, {"tie_word_embeddings": {}}, {}, None],
}


HEADS = ("lm_head.weight", "model.embed_tokens.weight")
SCORE = {f"{handmade.START}score.weight": handmade.noise(3, 8)}
RESIZED = {f"{handmade.START}{name}": handmade.noise(14, 8) for name in HEADS}
ADAPTERS: dict[str, tuple[handmade.Arrays, dict[str, Any]]] = {
    "plain": ({}, {}),
    "head": (SCORE, {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}),
    "resized": (RESIZED, {}),
    "replicated": ({}, {"layer_replication": [[0, 2], [1, 2]]}),
    "mapped": ({}, {"auto_mapping": {"base_model_class": "LlamaForCausalLM"}}),
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("key", ODD)
def test_config_values_of_a_wrong_kind(kind: str, key: str, tmp_path: Path) -> None:
    more, config = ADAPTERS[kind]
    adapter = handmade.adapter(tmp_path / "adapter", handmade.lora_tensors() | more, **config)
    base = handmade.base(tmp_path / "base")
    for value in ODD[key]:
        handmade.change_json(base / "config.json", **{key: value})
        assert refusal(adapter, base).isprintable()


def refusal(adapter: Path, base: Path) -> str:
    """Plan a merge; give what was said against it, empty where nothing was."""
    try:
        at.plan(adapter, base=base, out=base.with_name("out"), dtype="bfloat16").as_json()
    except AdapterToolsError as error:
        return str(error)
    return ""
