"""verify of what stack, resize and convert wrote: whole, touched, and without a receipt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import Mismatch, Unreadable, Unsupported
from tests.cli import run
from tests.tiny_llama import noise, save_lora

WEIGHTS = "adapter_model.safetensors"


def source(folder: Path, seed: int = 0) -> Path:
    pairs = {"model.layers.0.self_attn.q_proj": (noise(3, 10, seed=seed), noise(8, 3, seed=9))}
    save_lora(folder, Path("tiny/base"), pairs)
    (folder / "README.md").write_text("mine")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def stacked(folder: Path) -> Path:
    at.stack([source(folder / "a"), source(folder / "b", 5)], out=folder / "out")
    return folder / "out"


def resized(folder: Path) -> Path:
    at.resize(source(folder / "a"), rank=1, out=folder / "out")
    return folder / "out"


def converted(folder: Path) -> Path:
    at.convert(source(folder / "a"), to="plain", out=folder / "out")
    return folder / "out"


def one_file(folder: Path) -> Path:
    source(folder / "a")
    out = folder / "out.safetensors"
    at.convert(folder / "a", to="kohya", out=out, options={"component": "unet"})
    return out


def unpickled(folder: Path) -> Path:
    tensors = load_file(source(folder / "a") / WEIGHTS)
    torch.save(tensors, folder / "a/adapter_model.bin")
    (folder / "a" / WEIGHTS).unlink()
    at.convert(folder / "a", out=folder / "out")
    return folder / "out"


MADE: dict[str, Callable[[Path], Path]] = {
    each.__name__: each for each in (stacked, resized, converted, one_file, unpickled)
}
every = pytest.mark.parametrize("how", MADE)


def codes(report: at.Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.level == "error"]


def checked(out: Path) -> at.Report:
    report = at.verify(out)
    schema.check("report", json.loads(json.dumps(report.as_json())))
    return report


@every
def test_what_was_written_is_whole_and_its_sources_are_named(how: str, tmp_path: Path) -> None:
    out, told = MADE[how](tmp_path), []
    report = at.verify(out, progress=told.append)
    assert report.ok
    assert report.facts["files"] == len(told) > 0
    assert sum(told) == report.facts["bytes"] > 0
    assert {Path(each["ref"]).name for each in report.facts["sources"]} == (
        {"a", "b"} if how == "stacked" else {"a"}
    )
    assert {f.code for f in report.findings} == {"VER010"}
    asked = ["a", "b"] if how == "stacked" else ["a"]
    again = at.verify(out, adapters=[tmp_path / each for each in asked])
    assert {each["state"] for each in again.facts["sources"]} == {"same"}
    checked(out)


@every
def test_a_byte_that_changed_is_found(how: str, tmp_path: Path) -> None:
    out = MADE[how](tmp_path)
    path = out if out.is_file() else out / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    report = checked(out)
    assert [(f.code, f.place) for f in report.findings if f.level == "error"] == [
        ("VER006", path.name)
    ]
    assert report.facts["changed"] == 1
    path.write_bytes(data[:-1])
    assert codes(checked(out)) == ["VER006"]


def test_files_that_went_or_came(tmp_path: Path) -> None:
    out = stacked(tmp_path)
    (out / "README.md").write_text("The card is for people.")
    (out / "notes.txt").touch()
    assert codes(checked(out)) == []
    (out / "adapter_config.json").unlink()
    (out / "more.safetensors").touch()
    report = checked(out)
    assert {f.place: f.code for f in report.findings if f.level == "error"} == {
        "adapter_config.json": "VER007", "more.safetensors": "VER008",
    }  # fmt: skip
    shutil.copytree(tmp_path / "a", tmp_path / "else")
    (out / WEIGHTS).unlink()
    (out / WEIGHTS).symlink_to(tmp_path / "else" / WEIGHTS)
    assert "VER007" in codes(checked(out))


@every
def test_another_source_is_found(how: str, tmp_path: Path) -> None:
    out = MADE[how](tmp_path)
    path = tmp_path / "a/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 77}))
    given = [tmp_path / each for each in (["a", "b"] if how == "stacked" else ["a"])]
    report = at.verify(out, adapters=given)
    assert codes(report) == ["VER003"]
    assert report.facts["sources"][0]["state"] == "changed"
    if how in ("stacked", "resized"):  # whose receipts say where it was
        assert codes(checked(out)) == ["VER003"]
        shutil.rmtree(tmp_path / "a")
        assert at.verify(out).facts["sources"][0]["state"] == "absent"


def test_a_folder_without_a_receipt_or_with_a_damaged_one(tmp_path: Path) -> None:
    out = converted(tmp_path)
    with pytest.raises(Unreadable, match=r"no receipt of a merge, so .*`stack`, `resize` and"):
        at.verify(tmp_path / "a")
    with pytest.raises(Unsupported, match="Leave --base out"):
        at.verify(out, base=tmp_path / "a")
    with pytest.raises(Mismatch, match="2 adapters were given, and the receipt names 1"):
        at.verify(out, adapters=["a", "b"])
    path = out / "adaptertools.convert.json"
    told = json.loads(path.read_text())
    assert str(tmp_path) not in path.read_text()
    for damaged in (
        {**told, "written": [{"name": "../a", "size": 1, "sha256": "0" * 64}]},
        {**told, "written": [{"name": WEIGHTS, "size": 1, "sha256": "x"}]},
        {**told, "written": 3}, {**told, "source": {}}, [], {**told, "source": {"ref": 1}},
        {**told, "source": {"ref": "a", "files": {"x": "y"}}},
    ):  # fmt: skip
        path.write_text(json.dumps(damaged))
        with pytest.raises(Unreadable, match="is no receipt of convert"):
            at.verify(out)
    path.write_text(json.dumps({k: v for k, v in told.items() if k != "written"}))
    with pytest.raises(Unreadable, match="names no digests: it is of an older adaptertools"):
        at.verify(out)


def test_the_command_says_so(tmp_path: Path) -> None:
    out = stacked(tmp_path)
    done = run("verify", out)
    assert done.code == 0
    assert "3 files" in done.out
    assert "VER010" in done.out
    (out / WEIGHTS).write_bytes(b"")
    assert run("verify", out).code == 1
