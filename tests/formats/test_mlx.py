"""MLX-LM with what we write says what PEFT says with what we read, and the way back is equal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported
from adaptertools.formats.peft import CONFIG, WEIGHTS
from tests.cases_models import Builder, gpt2, llama, qwen2
from tests.formats.mlx_reader import Reader
from tests.stacking import made, together

QV = ["q_proj", "v_proj"]
OURS = "adapters.safetensors"
ALL: dict[str, Any] = {
    "target_modules": "all-linear", "lora_alpha": 5, "rank_pattern": {"up_proj": 6},
    "alpha_pattern": {"v_proj": 7}, "use_rslora": True,
}  # fmt: skip

# Base, LoRA settings, and whether the way back gives the same tensors.
CASES: dict[str, tuple[Builder, dict[str, Any], bool]] = {
    "llama": (llama(), {"target_modules": QV, "lora_alpha": 12}, True),
    "rslora": (llama(), {"target_modules": QV, "lora_alpha": 6, "use_rslora": True}, True),
    "patterns": (llama(), ALL, False),
    "some layers": (llama(), {"target_modules": QV, "layers_to_transform": [0]}, True),
    "both ends": (llama(), {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}, True),
    "dora": (llama(), {"target_modules": QV, "use_dora": True}, True),
    "qwen2": (qwen2(), {"target_modules": ["k_proj", "down_proj"]}, True),
    "gpt2": (gpt2(tied=True), {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_mlx_reads_it(case: str, tmp_path: Path) -> None:
    reader = Reader()
    base, lora, _ = CASES[case]
    source = made(base, tmp_path / "in", **lora)
    at.convert(source, to="mlx", out=tmp_path / "out")
    expected = together(base, [(source, 1.0)]).numpy()
    found = reader.logits(base().float(), tmp_path / "out")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, tmp_path: Path) -> None:
    base, lora, equal = CASES[case]
    source = made(base, tmp_path / "in", **lora)
    at.convert(source, to="mlx", out=tmp_path / "mlx")
    at.convert(tmp_path / "mlx", to="peft", out=tmp_path / "back")
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("in", "back"))
    assert before.keys() == after.keys()
    scales = [
        {e.target: (e.scale, e.rank) for e in at.open(tmp_path / name).entries}
        for name in ("in", "back")
    ]
    if equal:
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert scales[0] == scales[1]
    one, two = (together(base, [(tmp_path / name, 1.0)]) for name in ("in", "back"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-12 if equal else 1e-6)


def test_what_mlx_trained(tmp_path: Path) -> None:
    """A file as mlx-lm's own trainer lays it out, read without mlx."""
    generator = torch.Generator().manual_seed(0)
    held = {}
    for name in ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"):
        width = 32 if "q_proj" in name else 48
        held[f"{name}.lora_a"] = torch.randn(32, 3, generator=generator)
        held[f"{name}.lora_b"] = torch.randn(3, width, generator=generator)
    folder = tmp_path / "in"
    folder.mkdir()
    save_file(held, folder / OURS)
    config = {"fine_tune_type": "lora", "num_layers": 1, "model": "tiny/base", "seed": 0,
              "lora_parameters": {"rank": 3, "scale": 20.0, "dropout": 0.0}}  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config))
    opened = at.open(folder)
    assert (opened.format, opened.method, opened.base) == ("mlx", "LORA", "tiny/base")
    assert {entry.scale for entry in opened.entries} == {20.0}
    at.convert(folder, out=tmp_path / "out")
    delta = load_file(tmp_path / "out" / WEIGHTS)
    start = "base_model.model.model.layers.1.mlp.up_proj.lora_"
    name = "model.layers.1.mlp.up_proj.lora_"
    expected = (held[f"{name}a"] @ held[f"{name}b"]).T
    assert torch.equal(delta[f"{start}B.weight"] @ delta[f"{start}A.weight"], expected)


def test_experts(tmp_path: Path) -> None:
    """One expert of three is adapted; the stack of the others is zero."""
    source = tmp_path / "in"
    source.mkdir()
    start = "base_model.model.model.layers.0.block_sparse_moe.experts.1."
    held = {f"{start}{w}.lora_{x}.weight": torch.randn((2, 8) if x == "A" else (6, 2))
            for w in ("w1", "w3") for x in "AB"}  # fmt: skip
    save_file(held, source / WEIGHTS)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["w1", "w3"]}
    (source / CONFIG).write_text(json.dumps(config))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"num_local_experts": 3}')
    at.convert(source, to="mlx", out=tmp_path / "out", base=tmp_path / "base")
    stacked = load_file(tmp_path / "out" / OURS)
    name = "model.layers.0.block_sparse_moe.switch_mlp.up_proj.lora_a"
    assert stacked[name].shape == (3, 2, 8)
    assert torch.equal(stacked[name][1], held[f"{start}w3.lora_A.weight"])
    assert not stacked[name][::2].any()
    at.convert(tmp_path / "out", out=tmp_path / "back")
    back = load_file(tmp_path / "back" / WEIGHTS)
    assert all(torch.equal(back[name], tensor) for name, tensor in held.items())
    (tmp_path / "base" / "config.json").write_text('{"num_local_experts": 1}')
    with pytest.raises(Mismatch, match="expert 1, and the base has 1"):
        at.convert(source, to="mlx", out=tmp_path / "no", base=tmp_path / "base")


def changed(folder: Path, key: str, value: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {key: value}))


def odd(folder: Path) -> None:
    save_file({**load_file(folder / OURS), "model.norm.weight": torch.ones(2)}, folder / OURS)


def half(folder: Path) -> None:
    held = load_file(folder / OURS)
    save_file({n: t for n, t in held.items() if "0.self_attn.q_proj.lora_b" not in n},
              folder / OURS)  # fmt: skip


REFUSED = {
    "a full fine-tune": (lambda f: changed(f, "fine_tune_type", "full"), Unsupported, "extract"),
    "another rank": (
        lambda f: changed(f, "lora_parameters", {"rank": 3, "scale": 1.0}), Mismatch, "rank 3"),
    "no scale": (lambda f: changed(f, "lora_parameters", {"rank": 4}), Unreadable, "scale None"),
    "a tensor more": (odd, Unsupported, "model.norm.weight"),
    "half a pair": (half, Unreadable, "lora_b were expected"),
    "no config": (lambda f: (f / CONFIG).unlink(), Unreadable, "not known"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    change, kind, why = REFUSED[case]
    at.convert(made(llama(), tmp_path / "in", target_modules=QV), to="mlx", out=tmp_path / "mlx")
    change(tmp_path / "mlx")
    with pytest.raises(kind, match=why):
        at.convert(tmp_path / "mlx", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "mlx"]


def test_what_mlx_cannot_hold(tmp_path: Path) -> None:
    both = made(llama(), tmp_path / "both", target_modules=["embed_tokens", "q_proj"])
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"tie_word_embeddings": true}')
    with pytest.raises(Unsupported, match=r"embed_tokens: the base's embeddings are tied"):
        at.convert(both, to="mlx", out=tmp_path / "out", base=tmp_path / "base")
    dora = made(llama(), tmp_path / "dora", target_modules=["embed_tokens"], use_dora=True)
    with pytest.raises(AdapterToolsError, match="by token"):
        at.convert(dora, to="mlx", out=tmp_path / "out")


def test_two_formats_in_one_folder(tmp_path: Path) -> None:
    folder = made(llama(), tmp_path / "in", target_modules=QV)
    at.convert(folder, to="mlx", out=tmp_path / "mlx")
    (tmp_path / "mlx" / OURS).rename(folder / OURS)
    assert at.open(folder).format == "peft"
    with pytest.raises(Unreadable, match="several formats: mlx, peft"):
        at.convert(folder, to="plain", out=tmp_path / "out")
    at.convert(folder, to="plain", out=tmp_path / "out", source="peft")
