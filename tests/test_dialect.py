"""Each library's config is known for what it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptertools.dialect import NAMES, dialect

DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", Path(__file__).parents[2] / "shared" / "data"))
WILD = sorted((DATA / "configs" / "wild").glob("*.json")) if DATA.is_dir() else []
GENERATED = sorted((DATA / "configs" / "generated").rglob("*.json")) if DATA.is_dir() else []
real = pytest.mark.skipif(not WILD, reason="the shared data folder is not there")

# Every real file that is not PEFT's, by its number in INDEX.tsv; looked at one by one.
OTHERS = {
    "015": "adapterhub",  # head_config.json of the adapters library, 1.0.1
    "018": "mlx", "131": "mlx", "133": "mlx", "168": "mlx", "169": "mlx", "184": "mlx",
    "215": "mlx", "216": "mlx", "217": "mlx",
    "086": "unknown", "087": "unknown", "089": "unknown",  # roles of somebody's Wi-Fi cards
    "102": "lfs",
    "152": "tunix",
    "308": "unknown",  # AdapterHub's list of the versions of an adapter, no adapter
}  # fmt: skip


@real
@pytest.mark.parametrize("path", WILD, ids=lambda p: p.stem)
def test_every_real_config(path: Path) -> None:
    assert dialect(path.read_bytes()) == OTHERS.get(path.stem, "peft")


@real
def test_the_index_says_the_same() -> None:
    words = {"DIALECT:MLX": "mlx", "DIALECT:ADAPTERHUB": "adapterhub", "DIALECT:TUNIX": "tunix",
             "UNRELATED": "unknown", "GIT-LFS-POINTER": "lfs"}  # fmt: skip
    lines = (DATA / "configs" / "wild" / "INDEX.tsv").read_text("utf-8").splitlines()[1:]
    said = {line.split("\t")[0]: line.split("\t")[4] for line in lines}
    for path in WILD:
        assert words.get(said[path.name], "peft") == dialect(path.read_bytes()), path.name
    assert len(WILD) == 149


@real
def test_what_peft_wrote_is_pefts() -> None:
    assert {dialect(path.read_bytes()) for path in GENERATED} == {"peft"}
    assert len(GENERATED) == 149


@real
@pytest.mark.parametrize("folder", sorted((DATA / "adapters").glob("*")), ids=lambda p: p.name[:12])
def test_real_folders(folder: Path) -> None:
    files = [path.name for path in folder.iterdir()]
    expected = "lerobot" if folder.name.startswith("Inishpy") else "peft"
    assert dialect((folder / "adapter_config.json").read_bytes(), None, files) == expected


WRITTEN = {
    "PEFT": ({"peft_type": "LORA"}, "peft"),
    "PEFT of tomorrow": ({"peft_type": "TOMORROW", "config": {}, "model_type": "x"}, "peft"),
    "peft_type null": ({"peft_type": None}, "peft"),
    "MLX": ({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}, "config": None}, "mlx"),
    "old MLX": ({"lora_layers": 16, "lora_parameters": {"rank": 8}}, "mlx"),
    "AdapterHub": ({"config": {"mh_adapter": True}, "model_type": "bert"}, "adapterhub"),
    "a path to a config": ({"config": "lora.yaml", "model_type": "bert"}, "unknown"),
    "Tunix": ({"framework": "jax-tunix-qwix", "lora_alpha": 1, "target_modules": []}, "tunix"),
    "LeRobot": ({"base_model": "lerobot/smolvla_base"}, "lerobot"),
    "odd types": ({"framework": ["tunix"], "base_model": {"lerobot/": 1}}, "unknown"),
    "no peft_type": (
        {"lora_alpha": 16, "target_modules": ["q"], "task_type": "CAUSAL_LM"}, "peft",
    ),
    "something": ({"a": 1}, "unknown"),
    "empty": ({}, "unknown"),
    "list": ([1], "unknown"),
    "null": (None, "unknown"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_written_ones(name: str) -> None:
    value, expected = WRITTEN[name]
    data = json.dumps(value).encode()
    assert dialect(data) == dialect(data[:20], value) == expected


def test_files_decide_where_the_config_does_not() -> None:
    weights = ["adapter_config.json", "adapter_model.safetensors"]
    assert dialect(b'{"lora_alpha": 16, "r": 8}') == "unknown"
    assert dialect(b'{"lora_alpha": 16, "r": 8}', None, weights) == "peft"
    assert dialect(b"{", None, weights) == "peft"
    assert dialect(b"{", None, ["adapters.safetensors"]) == "mlx"
    assert dialect(b"[]", None, ["pytorch_adapter.bin"]) == "adapterhub"
    assert dialect(b'{"a": 1}', None, weights) == "unknown"


def test_what_cannot_be_read() -> None:
    assert dialect(b"") == "none"
    assert dialect(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n") == "lfs"
    assert dialect(b'{"peft_type": "LORA",}') == "peft", "a comma too many does not change whose"
    assert dialect('{"peft_type": "LORA"}'.encode("utf-16")) == "peft"
    assert dialect(b'\xef\xbb\xbf{"peft_type": "LORA"}') == "peft"
    assert dialect(b"{{{") == "unknown"


@settings(deadline=None)
@given(st.binary(max_size=80), st.lists(st.sampled_from(["adapter_model.bin", "x"]), max_size=2))
def test_any_bytes_have_a_name(data: bytes, files: list[str]) -> None:
    assert dialect(data, None, files) in NAMES
