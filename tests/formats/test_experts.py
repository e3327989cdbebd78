"""Experts in every layout do what they did: PEFT 0.18, 0.19 and 0.21 wrote and merged the fixtures.

The bases are zero, so that what a release of PEFT merged is the update itself. What is converted is
read by the PEFT that is installed, and merged in float64.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import adaptertools as at
from tests.cases_recipe import quiet
from tests.fixtures.experts.cases import CASES, config_of, made

HERE = Path(__file__).parents[1] / "fixtures" / "experts"
VERSIONS = ("0.18.1", "0.19.0", "0.19.1", "0.21.2")
BOTH = [case for case in CASES if case not in ("mixed", "only")]  # gate, up and down
WEIGHTS = "adapter_model.safetensors"

Tensors = dict[str, torch.Tensor]


def base(folder: Path, case: str, family: str = "qwen3_moe") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(family, case)))
    return folder


def merged(folder: Path, case: str, family: str = "qwen3_moe") -> Tensors:
    """Give what PEFT makes of a base of zeros, in float64."""
    with quiet():
        model = made(config_of(family, case)).double()
        for part in model.parameters():
            part.data.zero_()
        peft = PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False)
        whole = peft.double().merge_and_unload()
    return {n: p.detach() for n, p in whole.named_parameters() if p.abs().max() > 0}


def expected(version: str, case: str, family: str = "qwen3_moe") -> Tensors:
    held = load_file(HERE / version / "expected.safetensors")
    start = f"{family}-{case}/"
    return {n.removeprefix(start): t for n, t in held.items() if n.startswith(start)}


def equal(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys() != set()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor.double(), rtol=0, atol=1e-12)


def same_file(one: Path, two: Path) -> None:
    first, second = (load_file(folder / WEIGHTS) for folder in (one, two))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", VERSIONS)
def test_fused_ones_of_every_release_for_the_newest(
    version: str, case: str, tmp_path: Path
) -> None:
    source = HERE / version / f"qwen3_moe-{case}"
    where = base(tmp_path / "base", case)
    report = at.convert(source, to="peft", experts="fused", base=where, out=tmp_path / "out")
    assert (report.facts["exactness"], report.facts["folded"]) == ("exact", [])
    equal(merged(tmp_path / "out", case), expected(version, case))
    back = at.convert(
        tmp_path / "out", to="peft", experts="fused-0.18", base=where, out=tmp_path / "back"
    )
    assert back.facts["error"] == 0
    same_file(source if version < "0.19.1" else tmp_path / "out",
              tmp_path / "back" if version < "0.19.1" else source)  # fmt: skip


@pytest.mark.parametrize("case", BOTH)
@pytest.mark.parametrize("version", VERSIONS)
def test_one_by_one_and_back(version: str, case: str, tmp_path: Path) -> None:
    source = HERE / version / f"qwen3_moe-{case}"
    where = base(tmp_path / "base", case)
    report = at.convert(source, to="peft", experts="split", base=where, out=tmp_path / "out")
    assert report.facts["exactness"] == "exact"
    names = load_file(tmp_path / "out" / WEIGHTS)
    assert len(names) == 3 * 3 * 2
    stem = "base_model.model.model.layers.0.mlp.experts.2.gate_proj"
    assert f"{stem}.lora_A.weight" in names
    equal(merged(tmp_path / "out", case), expected(version, case))
    way = "fused-0.18" if version < "0.19.1" else "fused"
    at.convert(tmp_path / "out", to="peft", experts=way, base=where, out=tmp_path / "back")
    same_file(source, tmp_path / "back")


def test_a_router_and_a_part_alone(tmp_path: Path) -> None:
    source = HERE / "0.21.2" / "qwen3_moe-mixed"
    where = base(tmp_path / "base", "mixed")
    at.convert(source, to="peft", experts="split", base=where, out=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_parameters"] is None
    assert config["target_modules"] == ["experts.0.down_proj", "experts.1.down_proj",
                                        "experts.2.down_proj", "mlp.gate", "q_proj"]  # fmt: skip
    at.convert(tmp_path / "out", to="peft", experts="fused", base=where, out=tmp_path / "back")
    same_file(source, tmp_path / "back")
    equal(merged(tmp_path / "back", "mixed"), expected("0.21.2", "mixed"))


@pytest.mark.parametrize("case", ["wide", "square", "only"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_that_stores_them_the_other_way(version: str, case: str, tmp_path: Path) -> None:
    source = HERE / version / f"gpt_oss-{case}"
    where: Any = base(tmp_path / "base", case, "gpt_oss")
    at.convert(source, to="peft", experts="fused", base=where, out=tmp_path / "out")
    equal(merged(tmp_path / "out", case, "gpt_oss"), expected(version, case, "gpt_oss"))


def test_all_layouts_merge_into_the_same(tmp_path: Path) -> None:
    with quiet():
        torch.manual_seed(0)
        made(config_of("qwen3_moe", "wide")).save_pretrained(tmp_path / "base")
    before = load_file(tmp_path / "base" / "model.safetensors")
    results = []
    for way in ("split", "fused", "fused-0.18"):
        at.convert(HERE / "0.18.1" / "qwen3_moe-wide", to="peft", experts=way,
                   base=tmp_path / "base", out=tmp_path / way)  # fmt: skip
        at.merge(tmp_path / way, base=tmp_path / "base", out=tmp_path / f"m-{way}")
        results.append(load_file(tmp_path / f"m-{way}" / "model.safetensors"))
    changed = [name for name in before if not torch.equal(before[name], results[0][name])]
    assert len(changed) == 3 * 3
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in before)
