"""Tinker's names and shapes, laid out as its cookbook's own tests do; PEFT says what it means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported
from adaptertools.formats.peft import CONFIG, WEIGHTS
from tests.cases_models import llama
from tests.stacking import made, together

PRE = "base_model.model.model"
MOE = f"{PRE}.layers.0.mlp.experts"


def folder(path: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    path.mkdir()
    save_file(tensors, path / WEIGHTS)
    said = {"r": 2, "lora_alpha": 3, "peft_type": "LORA", "base_model_name_or_path": "tiny/base"}
    (path / CONFIG).write_text(json.dumps({**said, **config}))
    return path


def pair(name: str, *shape: int, rank: int = 2, out: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return {
        f"{name}.lora_A.weight": torch.randn(*shape[:-1], rank, shape[-1], generator=generator),
        f"{name}.lora_B.weight": torch.randn(*shape[:-1], out, rank, generator=generator),
    }


def test_head_and_layers(tmp_path: Path) -> None:
    """What PEFT makes of an adapter, Tinker's names make of it too; recognised without --from."""
    given = made(llama(), tmp_path / "in", target_modules=["q_proj", "lm_head"], lora_alpha=6)
    held = load_file(given / WEIGHTS)
    named = {n.replace("model.lm_head", "model.model.unembed_tokens"): t for n, t in held.items()}
    assert named.keys() != held.keys()
    theirs = folder(tmp_path / "theirs", named, r=4, lora_alpha=6)
    report = at.convert(theirs, to="plain", out=tmp_path / "out")
    assert (report.facts["from"], report.facts["exactness"]) == ("tinker", "exact")
    one, two = (together(llama(), [(path, 1.0)]) for path in (given, tmp_path / "out"))
    torch.testing.assert_close(two, one, rtol=0, atol=0)
    at.convert(theirs, source="tinker", to="peft", out=tmp_path / "peft")
    found = load_file(tmp_path / "peft" / WEIGHTS)
    assert found.keys() == held.keys()
    assert all(torch.equal(found[name], held[name]) for name in held)
    (theirs / CONFIG).write_text('{"r": 4, "lora_alpha": 6}')  # nothing else is read
    assert at.open(theirs, format="tinker").entries[0].scale == 1.5


def test_experts(tmp_path: Path) -> None:
    held = {
        **pair(f"{MOE}.w1", 3, 8), **pair(f"{MOE}.w2", 3, 6, out=8, rank=1),
        f"{MOE}.w3.lora_A.weight": torch.randn(1, 2, 8),
        f"{MOE}.w3.lora_B.weight": torch.randn(3, 6, 2),
        f"{MOE.replace('0', '1')}.w1.lora_A.weight": torch.zeros(3, 2, 0),
        f"{MOE.replace('0', '1')}.w1.lora_B.weight": torch.zeros(3, 0, 2),
    }  # fmt: skip
    adapter = at.open(folder(tmp_path / "in", held))
    at.save(adapter, tmp_path / "out")
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert len(found) == 2 * 9
    for entry in adapter.entries:
        *_, at_, name = entry.target.split(".")
        part = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[name]
        a, b = (held[f"{MOE}.{part}.lora_{side}.weight"] for side in "AB")
        expected = b[int(at_)] @ a[int(at_) if len(a) > 1 else 0] * (3 / 2)
        own = [found[f"base_model.model.{entry.target}.lora_{side}.weight"] for side in "BA"]
        torch.testing.assert_close(own[0] @ own[1] * entry.scale, expected)
    assert {(e.rank, e.scale) for e in adapter.entries} == {(2, 1.5), (1, 1.5)}


def test_base_decides(tmp_path: Path) -> None:
    held = {**pair(f"{MOE}.w1", 1, 8), **pair(f"{PRE}.layers.0.attn.q_proj", 8)}
    theirs = folder(tmp_path / "in", held)
    with pytest.raises(Unsupported, match="nothing says how many there are"):
        at.open(theirs)
    base = tmp_path / "base"
    base.mkdir()
    save_file({"model.language_model.layers.0.a": torch.ones(1)}, base / "model.safetensors")
    (base / "config.json").write_text('{"text_config": {"num_experts": 4}}')
    start = "model.language_model.layers.0"
    assert {entry.target for entry in at.open(theirs, base=base).entries} == {
        f"{start}.self_attn.q_proj", *(f"{start}.mlp.experts.{n}.gate_proj" for n in range(4))
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "config", "error", "match"),
    [
        (pair(f"{PRE}.layers.0.linear_attn.in_proj_q", 8), {}, Unsupported, "build_lora_adapter"),
        ({f"{PRE}.layers.0.odd": torch.ones(2)}, {}, Unsupported, "odd are no factors"),
        ({f"{MOE}.w2.lora_A.weight": torch.ones(3, 2, 8)}, {}, Mismatch, "make no update"),
        (pair(f"{PRE}.a", 3, 8), {}, Mismatch, "make no update"),
        ({}, {"r": 0}, Unreadable, "two numbers"),
    ],
)
def test_refused(
    more: dict[str, torch.Tensor], config: dict[str, Any], error: type[AdapterToolsError],
    match: str, tmp_path: Path,
) -> None:  # fmt: skip
    theirs = folder(tmp_path / "in", {**pair(f"{MOE}.w1", 3, 8), **more}, **config)
    with pytest.raises(error, match=match):
        at.open(theirs)
