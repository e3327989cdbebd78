"""What LitGPT's format cannot hold, or its folder does not say, is refused, and nothing written."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, NotFound, Unreadable, Unsupported
from adaptertools.formats._litgpt_read import NAME
from adaptertools.formats.peft import WEIGHTS
from tests.formats.litgpt_models import KINDS, folder
from tests.stacking import made

LORA: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 8}


def trained(path: Path, tmp_path: Path) -> Path:
    """Make a folder as LitGPT's training leaves it."""
    base, adapter = (
        folder(tmp_path / "b", "llama"),
        made(KINDS["llama"].base, tmp_path / "a", **LORA),
    )
    at.convert(adapter, to="litgpt", out=path, base=base)
    return path


def rewritten(path: Path, **new: torch.Tensor) -> None:
    held = torch.load(path / NAME, weights_only=True)["model"]
    torch.save({"model": {**held, **new}}, path / NAME)


def test_reading(tmp_path: Path) -> None:
    lit = trained(tmp_path / "lit", tmp_path)
    config, training = lit / "model_config.yaml", lit / "hyperparameters.yaml"
    kept = config.read_text(), training.read_text(), (lit / NAME).read_bytes()
    said = yaml.safe_load(kept[0])
    cases: list[tuple[str, str, type[AdapterToolsError], str]] = [
        ("config", yaml.safe_dump({**said, "n_head": 8}), Mismatch, "the configs beside it make"),
        ("config", yaml.safe_dump({**said, "n_embd": "x"}), Unreadable, "a size was expected"),
        ("config", "[", Unreadable, "is not YAML"),
        ("config", yaml.safe_dump({**said, "latent_attention": {"a": 1}}), Unsupported, "latent"),
        ("config", yaml.safe_dump({**said, "mlp_class_name": "New"}), Unsupported, "no names"),
        ("training", "lora_r: 4\n", Unreadable, "two numbers were expected"),
        ("training", "- 4\n", Unreadable, "is no map"),
        ("training", kept[1].replace("lora_query: true", "lora_query: false"), Mismatch, "lora_A"),
    ]
    for which, text, error, match in cases:
        (config if which == "config" else training).write_text(text)
        with pytest.raises(error, match=match):
            at.open(lit)
        config.write_text(kept[0])
        training.write_text(kept[1])
    for name, match in {"transformer.h.0.mlp.odd.lora_A": "has not both factors",
                        "transformer.h.0.attn.attn.lora_A": "before 0.5.4",
                        "transformer.h.0.gating_factor": "is no factor"}.items():  # fmt: skip
        rewritten(lit, **{name: torch.ones(4, 32)})
        with pytest.raises(AdapterToolsError, match=match):
            at.open(lit)
        (lit / NAME).write_bytes(kept[2])
    config.unlink()
    with pytest.raises(NotFound, match="the one that `litgpt download` makes"):
        at.open(lit)
    assert len(at.open(lit, base=tmp_path / "b").entries) == 4


def test_writing(tmp_path: Path) -> None:
    base = folder(tmp_path / "b", "llama")
    cases: list[tuple[dict[str, Any], type[AdapterToolsError], str]] = [
        ({"use_dora": True}, Unsupported, "litgpt cannot hold DoRA's magnitudes"),
        ({"modules_to_save": ["lm_head"]}, Unsupported, "tensors that are saved whole"),
    ]
    for at_, (lora, error, match) in enumerate(cases):
        adapter = made(KINDS["llama"].base, tmp_path / str(at_), **{**LORA, **lora})
        with pytest.raises(error, match=match):
            at.convert(adapter, to="litgpt", out=tmp_path / "out", base=base)
    adapter = made(KINDS["llama"].base, tmp_path / "a", **LORA)
    with pytest.raises(NotFound, match=r"model_config\.yaml"):
        at.convert(adapter, to="litgpt", out=tmp_path / "out")
    with pytest.raises(Unsupported, match="has no place for these in pythia-tiny"):
        at.convert(adapter, to="litgpt", out=tmp_path / "out", base=folder(tmp_path / "p", "neox"))
    with pytest.raises(Mismatch, match="makes 64×32 of the weight"):
        at.convert(adapter, to="litgpt", out=tmp_path / "out",
                   base=folder(tmp_path / "w", "llama", head_size=16))  # fmt: skip
    with pytest.raises(Unsupported, match="--rank 2: modules have rank 4"):
        at.convert(adapter, to="litgpt", out=tmp_path / "out", base=base, rank=2)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_numbers_and_experts(dtype: str, tmp_path: Path) -> None:
    """Experts by Mixtral's names, padded, in 16 bits; all of it comes back."""
    base = folder(tmp_path / "b", "llama", mlp_class_name="LLaMAMoE", n_expert=2)
    adapter = made(KINDS["llama"].base, tmp_path / "a", **LORA)
    held = {n: t.to(getattr(torch, dtype)) for n, t in load_file(adapter / WEIGHTS).items()}
    start = "base_model.model.model.layers.0.block_sparse_moe.experts.1.w2.lora_"
    held[f"{start}A.weight"] = torch.randn(4, 48).to(getattr(torch, dtype))
    held[f"{start}B.weight"] = torch.randn(32, 4).to(getattr(torch, dtype))
    save_file(held, adapter / WEIGHTS)
    report = at.convert(adapter, to="litgpt", out=tmp_path / "lit", base=base, rank=6)
    assert (report.facts["exactness"], len(report.facts["padded"])) == ("exact", 5)
    lit = torch.load(tmp_path / "lit" / NAME, weights_only=True, mmap=True)["model"]
    assert {t.dtype for t in lit.values()} == {getattr(torch, dtype)}
    assert lit["transformer.h.1.mlp.experts.0.fc_2.lora_B"].count_nonzero() == 0
    assert lit["transformer.h.0.mlp.gate.lora_B"].shape == (2, 6)
    at.convert(tmp_path / "lit", to="peft", out=tmp_path / "back")
    back = load_file(tmp_path / "back" / WEIGHTS)
    assert back.keys() == held.keys()
    for name, tensor in held.items():
        part = back[name][:4] if "lora_A" in name else back[name][:, :4]
        assert torch.equal(part, tensor), name
        assert back[name].count_nonzero() == tensor.count_nonzero()
