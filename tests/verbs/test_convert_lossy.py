"""What may be lost is measured and told: DoRA, KaSA, biases, packed bases, ranks that are cut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import Mismatch, Unsupported
from tests import kit
from tests.as_lora import CASES, off, optimum, updates, written
from tests.cases_recipe import Case
from tests.cli import run

torch.set_num_threads(1)


def built(case: Case, folder: Path) -> Case:
    case.build(folder, torch.float32)
    return case


@pytest.mark.parametrize("name", ["dora_linear", "dora_gpt2", "dora_embedding", "dora_conv2d"])
def test_dora_where_it_has_no_place(name: str, tmp_path: Path) -> None:
    case, out = built(kit.CASES[name], tmp_path), tmp_path / "out"
    how = {"to": "plain", "out": out, "base": tmp_path / "base"}
    with pytest.raises(Unsupported, match=r"DoRA's magnitudes.*--allow-lossy"):
        at.convert(tmp_path / "adapter", **how)
    lossy = at.convert(tmp_path / "adapter", allow_lossy=True, rank=5, **how).facts["lossy"]
    theirs, ours = updates(case, tmp_path), written(case, tmp_path, out)
    for tensor, change in theirs.items():
        least = optimum(change, 5)
        assert off(ours[tensor], change) == pytest.approx(least, abs=1e-6)
    assert len(lossy["modules"]) == len(theirs)


def test_dora_stays_where_it_has_one(tmp_path: Path) -> None:
    built(kit.CASES["dora_linear"], tmp_path)
    report = at.convert(tmp_path / "adapter", to="mlx", out=tmp_path / "out", allow_lossy=True)
    assert "lossy" not in report.facts
    assert at.open(tmp_path / "out").config["use_dora"]


def test_kasa_as_what_it_takes_and_gives(tmp_path: Path) -> None:
    """PEFT's SVD is float32, and what is left of the base is rounded."""
    case, out = built(kit.CASES["kasa"], tmp_path), tmp_path / "out"
    at.convert(
        tmp_path / "adapter", to="plain", out=out, base=tmp_path / "base", allow_lossy=True,
        rank="energy:0.999999999",
    )  # fmt: skip
    theirs, ours = updates(case, tmp_path), written(case, tmp_path, out)
    assert {e.rank for e in at.open(out).entries} == {2 * at.open(tmp_path / "adapter").rank}
    for tensor, change in theirs.items():
        assert off(ours[tensor], change) < 1e-4


@pytest.mark.parametrize("name", ["IA3 biased", "ROAD biased", "GLORA biased vector"])
def test_biases(name: str, tmp_path: Path) -> None:
    built(CASES[name], tmp_path)
    how = {"base": tmp_path / "base", "allow_lossy": True, "rank": "auto"}
    with pytest.raises(Unsupported, match=r"does to the biases of .*--drop-extras.*--to peft"):
        at.convert(tmp_path / "adapter", to="plain", out=tmp_path / "out", **how)
    dropped = at.convert(
        tmp_path / "adapter", to="plain", out=tmp_path / "out", drop_extras=True, **how
    )  # fmt: skip
    assert "CNV011" in [finding.code for finding in dropped.findings]
    at.convert(tmp_path / "adapter", to="peft", out=tmp_path / "whole", **how)
    held = [item.name for item in at.open(tmp_path / "whole").saved]
    assert held
    assert all(name.endswith(".bias") for name in held)
    assert at.open(tmp_path / "out").saved == ()


def test_a_lora_is_cut_only_where_that_is_allowed(tmp_path: Path) -> None:
    case = built(kit.CASES["attention_llama"], tmp_path)
    with pytest.raises(Unsupported, match=r"padding cannot shrink"):
        at.convert(tmp_path / "adapter", to="plain", out=tmp_path / "out", rank=2)
    for said in ("energy:0.9", "auto"):
        with pytest.raises(Unsupported, match=r"--allow-lossy"):
            at.convert(tmp_path / "adapter", to="plain", out=tmp_path / "out", rank=said)
    for said in ("budget:3", "max", "-1", "many"):
        with pytest.raises(Unsupported, match=r"--rank"):
            at.convert(
                tmp_path / "adapter", to="plain", out=tmp_path / "out", rank=said, allow_lossy=True
            )  # fmt: skip
    report = at.convert(
        tmp_path / "adapter", to="plain", out=tmp_path / "out", rank=2, allow_lossy=True
    )  # fmt: skip
    theirs, ours = updates(case, tmp_path), written(case, tmp_path, tmp_path / "out")
    assert report.facts["exactness"] == "approximate"
    for module in report.facts["lossy"]["modules"]:
        change = theirs[f"{module['target']}.weight"]
        assert module["error"] == pytest.approx(optimum(change, 2), abs=1e-6)
        assert off(ours[f"{module['target']}.weight"], change) == pytest.approx(module["error"])
    wide = at.convert(
        tmp_path / "adapter", to="plain", out=tmp_path / "wide", rank=20, allow_lossy=True
    )  # fmt: skip
    assert "lossy" not in wide.facts
    assert at.open(tmp_path / "wide").rank == 20


def test_the_error_is_of_what_is_stored(tmp_path: Path) -> None:
    case, out = built(CASES["OFT linear"], tmp_path), tmp_path / "out"
    lossy = at.convert(
        tmp_path / "adapter", to="plain", out=out, base=tmp_path / "base", dtype="bfloat16",
        allow_lossy=True, rank="auto",
    ).facts["lossy"]  # fmt: skip
    theirs = updates(case, tmp_path)
    held = load_file(out / "adapter_model.safetensors")
    for module in lossy["modules"]:
        a, b = (
            held[f"base_model.model.{module['target']}.lora_{x}.weight"].double().numpy()
            for x in "AB"
        )
        change = theirs[f"{module['target']}.weight"]
        assert module["error"] == pytest.approx(off(b @ a, change), rel=1e-6)
        assert 1e-4 < module["error"] < 1e-2


def test_it_is_told_before_it_is_written(tmp_path: Path) -> None:
    built(CASES["OFT linear"], tmp_path)
    arguments = [tmp_path / "adapter", "--to", "plain", "--base", tmp_path / "base", "--rank", "3",
                 "--allow-lossy"]  # fmt: skip
    done = run("convert", *arguments, "--out", tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert not (tmp_path / "out").exists()
    table = [line.split() for line in done.out.splitlines()]
    rows = {row[0]: row[1:] for row in table if row and row[0].startswith("model.layers")}
    assert len(rows) == 6
    assert all(row[0] == "3" and 0.1 < float(row[3]) < 1 for row in rows.values())
    assert "approximate: off by" in done.out
    told = run("convert", *arguments, "--out", tmp_path / "out", "--json")
    report = json.loads(told.out)
    schema.check("report", report)
    receipt = json.loads((tmp_path / "out" / "adaptertools.convert.json").read_text())
    assert receipt["lossy"] == report["facts"]["lossy"]
    assert receipt["exactness"] == "approximate"
    assert len(receipt["lossy"]["modules"]) == 6


def test_an_untrained_adapter_is_no_lora(tmp_path: Path) -> None:
    built(CASES["IA3 linear"], tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({n: torch.ones_like(t) for n, t in load_file(path).items()}, path)
    with pytest.raises(Mismatch, match="changes no weight"):
        at.convert(
            tmp_path / "adapter", to="plain", out=tmp_path / "out", base=tmp_path / "base",
            allow_lossy=True,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_nan_is_refused(tmp_path: Path) -> None:
    built(CASES["HRA linear"], tmp_path)
    for part in ("adapter/adapter_model", "base/model"):
        path = tmp_path / f"{part}.safetensors"
        before, held = path.read_bytes(), load_file(path)
        name = next(n for n in held if "q_proj" in n)
        held[name] = torch.full_like(held[name], np.nan)
        save_file(held, path, {"format": "pt"})
        with pytest.raises(at.errors.Unreadable, match="NaN"):
            at.convert(
                tmp_path / "adapter", to="plain", out=tmp_path / "out", base=tmp_path / "base"
            )  # fmt: skip
        path.write_bytes(before)
    assert not (tmp_path / "out").exists()
