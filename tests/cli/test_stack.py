"""`adaptertools stack` as a user types it."""

import json
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools import plugins, schema
from adaptertools.verbs._sources import source
from tests.cli import contents, run
from tests.tiny_llama import noise, save_lora


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two adapters, `a` and `b`, that agree in most."""
    for seed, name in enumerate("ab"):
        pairs = {
            f"model.layers.{i}.self_attn.q_proj": (
                noise(3, 10, seed=50 + i) + noise(3, 10, seed=10 * seed + i, size=0.3),
                noise(8, 3, seed=60 + i) + noise(8, 3, seed=10 * seed + i + 5, size=0.3),
            )
            for i in range(2)
        }  # fmt: skip
        save_lora(tmp_path / name, Path("tiny/base"), pairs)
    return tmp_path


def test_words_and_json(folder: Path) -> None:
    done = run("stack", f"{folder}/a=0.5", f"{folder}/b", "--out", folder / "out", "--verify")
    assert (done.code, done.err) == (0, "")
    for word in ("2 modules", "rank 6", "× 0.5", "survives 100.00%", "float32", "verified 2"):
        assert word in done.out
    asked = ("stack", f"{folder}/a=0.5", f"{folder}/b", "--json", "--out")
    report = json.loads(run(*asked, folder / "other").out)
    schema.check("report", report)
    schema.check("report", json.loads(run(*asked, folder / "no", "--dry-run").out))
    for out in ("out", "other"):
        receipt = (folder / out / "adaptertools.stack.json").read_text()
        schema.check("stack", json.loads(receipt))
    assert (report["verb"], report["ok"]) == ("stack", True)
    assert [each["weight"] for each in report["facts"]["adapters"]] == [0.5, 1.0]
    assert (folder / "out" / "adapter_model.safetensors").read_bytes() == (
        folder / "other" / "adapter_model.safetensors"
    ).read_bytes()
    assert run("stack", f"{folder}/a", "-q", "--out", folder / "quiet").out == ""


def test_what_is_lost_is_shown_by_module(folder: Path) -> None:
    asked = ("stack", f"{folder}/a", f"{folder}/b", "--rank", "2", "--dry-run", "--out")
    before = contents(folder)
    done = run(*asked, folder / "out")
    assert contents(folder) == before
    assert "would be" in done.out
    assert "model.layers.1.self_attn.q_proj     2      6" in done.out


@pytest.mark.parametrize("how", [name.replace("_", "-") for name in plugins.names("blends")])
def test_every_how_writes_an_adapter_that_opens(how: str, folder: Path) -> None:
    done = run("stack", f"{folder}/a", f"{folder}/b=0.5", "--how", how, "--out", folder / "out",
               "--verify")  # fmt: skip
    assert done.code == 0, done.err
    assert len(at.open(folder / "out").entries) == 2
    assert ("cosine with the plain sum" in done.out) == (how not in ("sum", "cat"))
    receipt = json.loads((folder / "out" / "adaptertools.stack.json").read_text())
    assert (receipt["verb"], receipt["options"]["how"]) == ("stack", how)


@pytest.mark.parametrize("tool", ["peft-linear", "peft-ties", "kohya", "lorahub"])
def test_another_tools_numbers_come_under_its_name(tool: str, folder: Path) -> None:
    done = run("stack", f"{folder}/a", f"{folder}/b=0.5", "--emulate", tool, "--out", folder / "o")
    assert f"as {tool} has it" in done.out
    assert f"`{tool}` emulated" in (folder / "o" / "README.md").read_text()


def test_negating_and_scaling_are_stacks_of_one(folder: Path) -> None:
    run("stack", f"{folder}/a=-1", "--out", folder / "negated", "--dtype", "float64")
    run("stack", f"{folder}/a=3", "--out", folder / "scaled", "--dtype", "float64")
    plain, negated, scaled = (source(at.open(folder / n)) for n in ("a", "negated", "scaled"))
    for target, entry in plain.entries.items():
        one = plain.load(entry).dense()
        for made, weight in ((negated, -1), (scaled, 3)):
            other = made.load(made.entries[target]).dense()
            assert abs(other - weight * one).max() <= 1e-13 * abs(one).max()
