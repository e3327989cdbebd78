"""inspect and validate say of every format what they say of the PEFT adapter it was made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import UnknownFormat
from tests.checks import tiny
from tests.cli import run

# Format -> what it takes to write it, the file in it that may be named, and that it is one file.
WRITTEN: dict[str, tuple[dict[str, Any], str]] = {
    "mlx": ({}, ""),
    "gguf": ({"base": "base"}, "adapter.gguf"),
    "kohya": ({"options": {"component": "unet"}}, "lora.safetensors"),
    "diffusers": ({"options": {"component": "unet"}}, "pytorch_lora_weights.safetensors"),
}


def _of_a_picture_model(name: str) -> str:
    for old, new in (("model.model.layers", "model.down_blocks"), ("self_attn", "attn1"),
                     ("q_proj", "to_q"), ("v_proj", "to_v")):  # fmt: skip
        name = name.replace(old, new)
    return name


def made(folder: Path, name: str) -> Path:
    """Write the tiny adapter in a format; kohya's flat names need modules that it knows."""
    source = folder / "in"
    tiny.adapter(source)
    tiny.base(folder / "base")
    if name in ("kohya", "diffusers"):
        held = load_file(source / tiny.WEIGHTS_FILE)
        save_file({_of_a_picture_model(n): t for n, t in held.items()}, source / tiny.WEIGHTS_FILE)
    how = dict(WRITTEN[name][0])
    if "base" in how:
        how["base"] = folder / how["base"]
    at.convert(source, to=name, out=folder / "out", **how)
    return folder / "out"


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_what_it_was(name: str, tmp_path: Path) -> None:
    out = made(tmp_path, name)
    before = at.inspect(tmp_path / "in", deep=True)
    file = WRITTEN[name][1]
    for thing in [out, *([out / file] if file else [])]:
        found = at.inspect(thing, deep=True, tensors=True)
        schema.check("inspect", json.loads(json.dumps(found.as_json())))
        assert (found.dialect, found.method, found.fault) == (name, "LORA", "")
        assert (found.rank, found.scale) == (before.rank, before.scale)
        assert found.modules == before.modules == 4
        assert found.weights is not None
        assert found.weights.file == (file or "adapters.safetensors")
        assert found.weights.parameters == before.weights.parameters
        assert found.norms is not None
        assert sorted(n.norm for n in found.norms) == sorted(n.norm for n in before.norms)
        assert found.merge.possible
        assert "It was read as PEFT would store it" in found.notes[0]


@pytest.mark.parametrize("name", WRITTEN)
def test_valid(name: str, tmp_path: Path) -> None:
    out = made(tmp_path, name)
    file = WRITTEN[name][1]
    for thing in [out, *([out / file] if file else [])]:
        report = at.validate(thing, deep=True)
        assert [f for f in report.findings if f.level == "error"] == []
        assert report.facts["dialect"] == name
        assert {"WGT001", "WGT004", "WGT005"} <= set(report.facts["checks_run"])


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    out = made(tmp_path, "diffusers")
    file = out / "pytorch_lora_weights.safetensors"
    held = load_file(file)
    next(iter(held.values()))[0, 0] = np.nan
    save_file(held, file)
    report = at.validate(file, deep=True)
    errors = [finding for finding in report.findings if finding.level == "error"]
    assert [finding.code for finding in errors] == ["WGT013"]


@pytest.mark.parametrize("name", ["gguf", "kohya"])
def test_damage_is_said(name: str, tmp_path: Path) -> None:
    file = made(tmp_path, name) / WRITTEN[name][1]
    file.write_bytes(file.read_bytes()[:-100])
    found = at.inspect(file)
    assert found.dialect == name
    assert found.fault
    assert not found.merge.possible
    report = at.validate(file)
    assert [f.code for f in report.findings if f.level == "error"] == ["WGT001"]
    assert run("validate", file).code == 1


def test_what_is_not_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    out = made(tmp_path, "mlx")
    config = json.loads((out / "adapter_config.json").read_text())
    tiny.write_json(out / "adapter_config.json", config | {"fine_tune_type": "full"})
    found = at.inspect(out)
    assert (found.dialect, found.fault, found.modules) == ("mlx", "", 0)
    assert found.weights is not None
    assert found.weights.tensors == 8
    assert "fine_tune_type is full" in found.merge.why
    assert any("fine_tune_type is full" in note for note in found.notes)
    assert at.validate(out).facts["dialect"] == "mlx"
    model = made(tmp_path / "two", "gguf") / "adapter.gguf"
    raw = model.read_bytes()
    model.write_bytes(raw.replace(b"adapter.type\x08\0\0\0\x04\0\0\0\0\0\0\0lora",
                                  b"adapter.type\x08\0\0\0\x04\0\0\0\0\0\0\0loha"))  # fmt: skip
    found = at.inspect(model, tensors=True)
    assert (found.fault, len(found.tensors or ())) == ("", 8)
    assert "an adapter of the type loha" in found.merge.why
    assert [f.code for f in at.validate(model).findings if f.level == "error"] == ["WGT001"]


def test_any_other_tensors_are_no_adapter(tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((2, 2), "float32")}, tmp_path / "some.safetensors")
    with pytest.raises(UnknownFormat):
        at.inspect(tmp_path)
    report = at.validate(tmp_path)
    assert next(f.code for f in report.findings if f.level == "error") == "FIL001"
