"""What PEFT cannot say of AdapterHub's adapters is looked at and refused, with the reason."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported
from tests.formats.adapterhub_models import FIXTURES
from tests.formats.test_adapterhub import saved

OTHERS = {
    "bottleneck": ("BOTTLENECK", "an activation between them"),
    "compacter": ("COMPACTER", "an activation between them"),
    "prompt": ("SOFT_PROMPT", "trained vectors before the input"),
    "gated": ("GATED_LORA", "a gate weighs its updates by the input"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_methods_are_looked_at_and_refused(case: str, tmp_path: Path) -> None:
    kind, why = OTHERS[case]
    adapter = at.open(FIXTURES / case)
    assert (adapter.method, adapter.base, adapter.format) == (kind, "tiny/bert", "adapterhub")
    seen = at.inspect(adapter, tensors=True)
    assert seen.tensors is not None
    assert len(seen.tensors) == len(adapter.tensors) > 0
    for to in ("peft", "plain", "mlx"):
        with pytest.raises(Unsupported, match=f"{kind}, which cannot be written as a LoRA.*{why}"):
            at.convert(FIXTURES / case, to=to, out=tmp_path / "out")
    with pytest.raises(Unsupported, match=f"{kind}, which cannot be merged.*{why}"):
        at.merge(FIXTURES / case, base=saved("bert", tmp_path / "base"), out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architecture": "reft", "r": 1}, "REFT"),
        ({"architecture": "mtl_lora", "r": 1}, "MTL_LORA"),
        ({"architecture": "union", "configs": []}, "UNION_OF_ADAPTERS"),
        ("pfeiffer", "BOTTLENECK"),  # before adapters 1.0, a preset's name
    ],
)
def test_kinds(config: object, kind: str, tmp_path: Path) -> None:
    said = {"config": config, "name": "tiny", "model_type": "bert"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    torch.save({"layer.refts.tiny.a": torch.ones(2)}, tmp_path / "pytorch_adapter.bin")
    assert at.open(tmp_path).method == kind


def test_not_equal_in_peft(tmp_path: Path) -> None:
    bert, llama = saved("bert", tmp_path / "bert"), saved("llama", tmp_path / "llama")
    cases: list[tuple[str, Path | None, type[AdapterToolsError], str]] = [
        ("dora", None, Unsupported, "scales biases too.*Pass the model as --base"),
        ("dora", bert, Mismatch, "is not in"),
        ("dora-bias", bert, Unsupported, "has a bias, which AdapterHub's DoRA scales"),
        ("dora-alpha", llama, Unsupported, "DoRA with alpha 8 and r 4"),
        ("prefix", None, Unsupported, r"Pass it as --base; only its config\.json is read"),
        ("prefix-gpt2", llama, Unsupported, "gpt2 adds positions to its inputs"),
    ]
    for case, base, error, match in cases:
        with pytest.raises(error, match=match):
            at.convert(FIXTURES / case, to="peft", out=tmp_path / "out", base=base)
    for more, error, match in [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, Unsupported, "rope_type yarn"),
        ({"sliding_window": 4}, Unsupported, "sliding_window 4"),
        ({"num_hidden_layers": 3}, Mismatch, "3 layers make"),
        ({"num_hidden_layers": None}, Unreadable, "a number was expected"),
    ]:
        config = json.loads((llama / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, **more}))
        with pytest.raises(error, match=match):
            at.convert(FIXTURES / "prefix", to="peft", out=tmp_path / "out", base=tmp_path)
    assert not list(tmp_path.glob("out*"))


def test_damage(tmp_path: Path) -> None:
    """A tensor more, one less, another name, another rank: nothing is guessed."""
    held = load_file(FIXTURES / "lora-bert" / "adapter.safetensors")
    some = next(name for name in held if name.endswith("lora_A"))
    less = {name: tensor for name, tensor in held.items() if name != some}
    cases: list[tuple[dict[str, torch.Tensor], dict[str, Any], type[AdapterToolsError], str]] = [
        (less, {}, Unreadable, "which makes no LORA"),
        (
            {**held, "pooler.weight": torch.ones(2)},
            {},
            Unsupported,
            "no tensors of an adapter tiny",
        ),
        (held, {"name": "big"}, Unsupported, "no tensors of an adapter big"),
        ({**held, some: torch.ones(3, 32)}, {}, Mismatch, "the config says rank 2"),
        (held, {"config": {"architecture": "lora", "r": "2"}}, Unreadable, "two numbers"),
        (held, {"name": ""}, Unreadable, "none of AdapterHub's"),
    ]
    for number, (tensors, more, error, match) in enumerate(cases):
        folder = tmp_path / str(number)
        copytree(FIXTURES / "lora-bert", folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **more}))
        save_file(tensors, folder / "adapter.safetensors")
        with pytest.raises(error, match=match):
            at.open(folder)
    (folder / "adapter_fusion_config.json").write_text("{}")
    with pytest.raises(Unsupported, match="AdapterFusion"):
        at.open(folder)


def test_heads_are_said(tmp_path: Path) -> None:
    copytree(FIXTURES / "lora-bert", tmp_path / "in")
    (tmp_path / "in" / "pytorch_model_head.bin").write_bytes(b"")
    report = at.convert(tmp_path / "in", to="peft", out=tmp_path / "out")
    assert [f.code for f in report.findings] == ["CNV012"]
    assert "pytorch_model_head.bin (a head for predictions" in report.findings[0].text
