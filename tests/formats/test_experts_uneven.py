"""Single experts that are not alike become one weight's LoRA that does the same; what is refused.

The update is summed up expert by expert from the files, and compared with what PEFT merges.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported
from tests.cli import run
from tests.formats.test_experts import HERE, WEIGHTS, base, equal, merged, same_file

STEM = "model.layers.0.mlp.experts"
SIZES = {"gate_proj": (6, 8), "up_proj": (6, 8), "down_proj": (8, 6)}


def single(
    folder: Path, wanted: dict[str, int], dtype: torch.dtype = torch.float32, **more: Any
) -> Path:
    """Save a LoRA of experts' modules, `0.gate_proj` and the like, of these ranks."""
    folder.mkdir()
    ranks = {f"experts.{name}": rank for name, rank in wanted.items()}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["gate_proj"],
              "rank_pattern": ranks, "alpha_pattern": ranks} | more  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, rank in wanted.items():
        out, inner = SIZES[name.partition(".")[2]]
        for role, shape in (("lora_A", (rank, inner)), ("lora_B", (out, rank))):
            values = torch.randint(-8, 9, shape, generator=generator) / 8
            tensors[f"base_model.model.{STEM}.{name}.{role}.weight"] = values.to(dtype)
    save_file(tensors, folder / WEIGHTS)
    return folder


def summed(folder: Path) -> dict[str, torch.Tensor]:
    """Give the update of every fused weight, from the single experts' factors."""
    found = {
        "gate_up_proj": torch.zeros(3, 12, 8).double(), "down_proj": torch.zeros(3, 8, 6).double()
    }  # fmt: skip
    tensors = load_file(folder / WEIGHTS)
    for entry in at.open(folder).entries:
        expert, part = entry.target.split(".")[-2:]
        start = f"base_model.model.{entry.target}.lora_"
        low = tensors[f"{start}B.weight"].double() @ tensors[f"{start}A.weight"].double()
        rows = slice(6, 12) if part == "up_proj" else slice(0, len(low))
        fused = "down_proj" if part == "down_proj" else "gate_up_proj"
        found[fused][int(expert), rows] += entry.scale * low
    return {f"{STEM}.{name}": tensor for name, tensor in found.items() if tensor.any()}


CASES: dict[str, dict[str, Any]] = {
    "ranks": {"wanted": {"0.gate_proj": 1, "0.up_proj": 3, "1.gate_proj": 2, "2.up_proj": 1}},
    "gate alone": {"wanted": {"0.gate_proj": 2, "1.gate_proj": 2, "2.gate_proj": 2}},
    "one expert": {"wanted": {"2.down_proj": 2, "0.up_proj": 2}},
    "alphas": {
        "wanted": {"0.gate_proj": 2, "0.up_proj": 2, "1.down_proj": 2, "2.down_proj": 2},
        "alpha_pattern": {"0.gate_proj": 3, "2.down_proj": 1},
    },
    "alphas of two, in bfloat16": {
        "wanted": {"0.gate_proj": 2, "0.up_proj": 2, "1.up_proj": 2}, "dtype": torch.bfloat16,
        "alpha_pattern": {"0.gate_proj": 4},
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_they_do_the_same(case: str, tmp_path: Path) -> None:
    source = single(tmp_path / "in", **CASES[case])
    where = base(tmp_path / "base", "wide")
    report = at.convert(source, to="peft", experts="fused", base=where, out=tmp_path / "out")
    assert bool(report.facts["padded"]) == (case == "ranks")
    assert bool(report.facts["folded"]) == ("alphas" in case)
    assert report.facts["exactness"] == "exact"
    equal(merged(tmp_path / "out", "wide"), summed(source))
    dtypes = {tensor.dtype for tensor in load_file(tmp_path / "out" / WEIGHTS).values()}
    assert dtypes == {CASES[case].get("dtype", torch.float32)}


@pytest.mark.parametrize("to", ["gguf", "mlx", "plain"])
def test_other_formats_get_single_experts(to: str, tmp_path: Path) -> None:
    where = base(tmp_path / "base", "wide")
    fused, apart = HERE / "0.18.1" / "qwen3_moe-wide", tmp_path / "apart"
    at.convert(fused, to="peft", experts="split", base=where, out=apart)
    for name, source in (("one", fused), ("two", apart)):
        at.convert(source, to=to, base=where, out=tmp_path / name)
    one, two = (
        sorted(p for p in (tmp_path / n).iterdir() if p.suffix in (".gguf", ".safetensors"))
        for n in ("one", "two")
    )
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    at.convert(tmp_path / "one", to="peft", experts="fused-0.18", base=where, out=tmp_path / "back")
    same_file(fused, tmp_path / "back")


def test_unsloths_columns(tmp_path: Path) -> None:
    where, source = base(tmp_path / "base", "wide"), HERE / "0.21.2" / "qwen3_moe-wide"
    theirs = tmp_path / "unsloth"
    theirs.mkdir()
    tensors = load_file(source / WEIGHTS)
    for name, b in tensors.items():
        if "lora_B" in name:
            tensors[name] = b.reshape(len(b), 2, 3).transpose(1, 2).reshape(len(b), 6).contiguous()
    save_file(tensors, theirs / WEIGHTS)
    config = json.loads((source / "adapter_config.json").read_text())
    (theirs / "adapter_config.json").write_text(json.dumps(config))
    done = run("convert", theirs, "--to", "peft", "--experts", "fused", "--expert-packing",
               "expert-major", "--base", where, "--out", tmp_path / "out")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    same_file(source, tmp_path / "out")
    (theirs / "adapter_config.json").write_text(
        json.dumps(config | {"lora_B_layout": "grouped_by_expert"})
    )
    at.convert(theirs, to="peft", experts="fused", base=where, out=tmp_path / "two")
    same_file(source, tmp_path / "two")


WIDE = HERE / "0.21.2" / "qwen3_moe-wide"
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[AdapterToolsError], str]] = {
    "no base": ({}, {"base": None}, Unsupported, r"Pass --base with its folder"),
    "a base without experts": (
        {"model_type": "llama"},
        {},
        Unsupported,
        r"model_type llama is not",
    ),
    "no number": ({"num_experts": None}, {}, Unsupported, r"is not one whose experts"),
    "other experts": ({"num_experts": 4}, {}, Mismatch, r"for 4 experts of rank 2, 8 rows"),
    "other sizes": (
        {"hidden_size": 10},
        {},
        Mismatch,
        r"the update is 12×8, the base has \[3, 12, 10\]",
    ),
    "a way": ({}, {"experts": "odd"}, Unsupported, r"--experts odd: split, fused, fused-0\.18"),
    "a format": ({}, {"to": "mlx"}, Unsupported, r"mlx holds experts one by one"),
    "a packing": ({}, {"expert_packing": "odd"}, Unsupported, r"--expert-packing odd"),
    "a rank": ({}, {"rank": 8}, Unsupported, r"--rank is for targets of one rank"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    changed, asked, kind, said = REFUSED[case]
    where = base(tmp_path / "base", "wide")
    path = where / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    how = {"to": "peft", "experts": "fused", "base": where, "out": tmp_path / "out"} | asked
    with pytest.raises(kind, match=said):
        at.convert(WIDE, **how)
    assert not (tmp_path / "out").exists()


def test_refused_adapters(tmp_path: Path) -> None:
    where = base(tmp_path / "base", "wide")
    oss = base(tmp_path / "oss", "wide", "gpt_oss")
    ways: Any = {"to": "peft", "out": tmp_path / "out"}
    with pytest.raises(Unsupported, match="no names of their own"):
        at.convert(HERE / "0.21.2" / "gpt_oss-wide", experts="split", base=oss, **ways)
    with pytest.raises(Unsupported, match=r"target_parameters has experts\.down_proj_bias"):
        at.convert(HERE / "0.21.2" / "gpt_oss-mixed", experts="fused", base=oss, **ways)
    with pytest.raises(Mismatch, match=r"experts\.7\.gate_proj: the base has 3 experts"):
        at.convert(single(tmp_path / "a", {"7.gate_proj": 2}), experts="fused", base=where, **ways)
    dora = single(tmp_path / "b", {"0.gate_proj": 2}, use_dora=True)
    tensors = load_file(dora / WEIGHTS)
    name = f"base_model.model.{STEM}.0.gate_proj.lora_magnitude_vector"
    save_file(tensors | {name: torch.ones(6)}, dora / WEIGHTS)
    with pytest.raises(Unsupported, match="peft cannot hold DoRA's magnitudes"):
        at.convert(dora, experts="fused", base=where, **ways)
    bad = single(tmp_path / "c", {"0.gate_proj": 2})
    tensors = load_file(WIDE / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, bad / WEIGHTS)
    (bad / "adapter_config.json").write_bytes((WIDE / "adapter_config.json").read_bytes())
    with pytest.raises(Unreadable, match="NaN"):
        at.convert(bad, experts="split", base=where, **ways)
    assert not (tmp_path / "out").exists()
