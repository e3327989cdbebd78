"""Convert between formats: what the command says, what is refused, and `save`."""

import json
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools import plugins
from adaptertools.errors import NotFound, UnknownFormat, Unsafe, Unsupported
from adaptertools.formats import EXTRAS
from adaptertools.verbs._convert_draft import RECEIPT
from adaptertools.verbs.convert import formats
from adaptertools.verbs.open import readers
from tests.checks import tiny
from tests.cli import run


@pytest.mark.parametrize("name", plugins.names("formats"))
def test_every_format_says_what_it_holds(name: str) -> None:
    module = plugins.load("formats", name)
    assert hasattr(module, "read") == hasattr(module, "matches") == (name in readers())
    assert name in {*readers(), *formats()}
    if name in formats():
        assert set(EXTRAS) >= module.HOLDS
        assert module.LACKS
        assert module.PROVED
        assert module.SUFFIX in ("", ".gguf", ".onnx_adapter", ".safetensors")


def test_command(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "in")
    out = tmp_path / "out"
    dry = run("convert", tmp_path / "in", "--to", "mlx", "--out", out, "--dry-run")
    assert (dry.code, out.exists()) == (0, False)
    assert "nothing was written\n  exact" in dry.out
    done = run("convert", tmp_path / "in", "--to", "mlx", "--out", out)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{out}: 8 tensors, 448 B, with README.md\n  exact")
    told = run("convert", out, "--from", "mlx", "--to", "plain", "--out", tmp_path / "two",
               "--rank", 4, "--json")  # fmt: skip
    facts = json.loads(told.out)["facts"]
    assert (facts["from"], facts["format"], facts["exactness"]) == ("mlx", "plain", "exact")
    assert len(facts["padded"]) == 4
    assert run("convert", out, "--to", "mlx", "--out", out, "-o", "x").code == 2


def test_save_and_what_it_says(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "in")
    adapter = at.open(tmp_path / "in")
    report = at.save(adapter, tmp_path / "out", format="plain")
    receipt = json.loads((tmp_path / "out" / RECEIPT).read_text())
    assert (receipt["exactness"], receipt["tensors"]) == ("exact", report.facts["tensors"])
    again = at.open(tmp_path / "out")
    assert {e.target: e.scale for e in again.entries} == {
        e.target: e.scale for e in adapter.entries
    }
    at.save(adapter, tmp_path / "copy")
    assert at.open(tmp_path / "copy").tensors.keys() == adapter.tensors.keys()


def test_a_file_gets_its_receipt_beside_it(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "in")
    out = tmp_path / "a.safetensors"
    at.convert(tmp_path / "in", to="kohya", out=out, options={"component": "unet"})
    receipt = tmp_path / "a.safetensors.convert.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, receipt.name, "in"]
    out.unlink()
    with pytest.raises(Unsafe, match=r"convert\.json exists already"):
        at.convert(tmp_path / "in", to="kohya", out=out, options={"component": "unet"})


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").touch()
    with pytest.raises(UnknownFormat, match=r"\(.*mlx, peft.*\)"):
        at.convert(tmp_path / "in", to="plain", out=tmp_path / "out")
    with pytest.raises(UnknownFormat, match=r"odd: no such format"):
        at.convert(tmp_path / "in", to="plain", source="odd", out=tmp_path / "out")
    with pytest.raises(NotFound):
        at.convert(tmp_path / "none", to="plain", out=tmp_path / "out")
    tiny.adapter(tmp_path / "a")
    tiny.set_config(tmp_path / "a", init_lora_weights="pissa")
    with pytest.raises(Unsupported, match=r"init_lora_weights pissa: .* --base"):
        at.convert(tmp_path / "a", to="plain", out=tmp_path / "out")
    tiny.set_config(tmp_path / "a", init_lora_weights=True, layer_replication=[[0, 1], [0, 2]])
    with pytest.raises(Unsupported, match="repeated layers"):
        at.convert(tmp_path / "a", to="plain", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "in"]


def test_a_file_that_is_no_adapter_of_its_own(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "in")
    for verb in (at.open, lambda file: at.convert(file, to="plain", out=tmp_path / "out")):
        with pytest.raises(NotFound, match="Give the folder that holds it"):
            verb(tmp_path / "in" / "adapter_model.safetensors")


def test_merged_and_stacked_as_they_are(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "in")
    base = tiny.base(tmp_path / "base")
    at.convert(tmp_path / "in", to="mlx", out=tmp_path / "mlx")
    for name in ("in", "mlx"):
        at.merge(tmp_path / name, base=base, out=tmp_path / f"merged-{name}")
    one, two = (tmp_path / f"merged-{n}" / "model.safetensors" for n in ("in", "mlx"))
    assert one.read_bytes() == two.read_bytes() != (base / "model.safetensors").read_bytes()
    both = [tmp_path / "in", tmp_path / "mlx"]
    at.stack(both, weights=[1, -0.5], out=tmp_path / "both", base_check="warn")
    assert at.open(tmp_path / "both").rank == tiny.RANK
