"""Stacks against PEFT with every adapter active, and against merging the parts in one pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from tests.cases_models import Builder, attention, convolutions, gpt2, llama, opt, qwen2
from tests.stacking import deltas, loading, made, together

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def targets(*names: str, **lora: Any) -> dict[str, Any]:
    """What LoraConfig is given."""
    return {"target_modules": list(names), **lora}


# Name -> base, configs of the adapters, weights.
FORWARD: dict[str, tuple[Builder, list[dict[str, Any]], list[float]]] = {
    "llama": (llama(), [targets(*LINEAR), targets(*LINEAR, r=6)], [0.7, 0.3]),
    "negative": (llama(), [{"target_modules": LINEAR}] * 3, [1.0, -0.4, 2.0]),
    "rslora": (
        llama(),
        [
            {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "lora_alpha": 3},
            {"target_modules": ["v_proj", "down_proj"], "r": 9, "lora_alpha": 16},
        ],
        [1.0, 0.5],
    ),
    "patterns": (
        llama(),
        [
            {
                "target_modules": LINEAR,
                "rank_pattern": {"layers.0.self_attn.q_proj": 2, "v_proj": 7},
                "alpha_pattern": {"layers.1.mlp.up_proj": 31, "o_proj": 1},
            },
            {"target_modules": r".*layers\.1.*(q|o)_proj", "r": 3},
        ],
        [0.9, -1.1],
    ),
    "layers": (
        llama(),
        [
            {"target_modules": ["q_proj"], "layers_to_transform": [1]},
            {"target_modules": ["k_proj"], "exclude_modules": ["model.layers.0.self_attn.k_proj"]},
        ],
        [1.0, 1.0],
    ),
    "opt": (opt(), [targets("q_proj", "fc1"), targets("fc2")], [1.0, 0.5]),
    "opt_bias": (
        opt(),
        [targets("q_proj", lora_bias=True, lora_alpha=12), targets("fc1")],
        [0.6, -2.0],
    ),
    "gpt2": (
        gpt2(),
        [
            {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
            {"target_modules": ["c_attn", "c_proj"], "r": 2, "fan_in_fan_out": True},
        ],
        [0.25, 1.5],
    ),
    "gpt2_head": (
        gpt2(),
        [
            {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
            {"target_modules": ["lm_head", "c_proj"]},
        ],
        [1.0, 1.0],
    ),
    "embeddings": (
        llama(),
        [
            {"target_modules": ["embed_tokens", "lm_head"]},
            {"target_modules": ["embed_tokens", "q_proj"], "r": 2, "lora_alpha": 5},
        ],
        [0.5, -0.7],
    ),
    "biases": (
        qwen2(),
        [
            {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
            {"target_modules": ["o_proj"]},
        ],
        [1.0, 0.5],
    ),
    "saved": (
        llama(),
        [targets("q_proj", modules_to_save=["lm_head"]), targets("k_proj")],
        [1.0, 0.5],
    ),
    "tokens": (  # last: PEFT loads nothing without rows once a model has some
        llama(),
        [
            {"target_modules": ["k_proj", "lm_head"]},
            {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 40]}},
        ],
        [0.5, 1.0],
    ),
}  # fmt: skip


def parts(base: Builder, configs: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Make the adapters of a case."""
    return [
        made(base, folder / f"part{seed}", seed, **config) for seed, config in enumerate(configs)
    ]


@pytest.mark.parametrize("name", FORWARD)
def test_forward_is_that_of_peft_with_all_active(name: str, tmp_path: Path) -> None:
    base, configs, weights = FORWARD[name]
    held = parts(base, configs, tmp_path)
    at.stack(held, weights=weights, out=tmp_path / "out", dtype="float64", verify=True)
    weighted = list(zip(held, weights, strict=True))
    expected = together(base, weighted)
    plain = together(base, [(held[0], 0.0)])
    ours = together(base, [(tmp_path / "out", 1.0)])
    assert (expected - plain).abs().max() > 1e-3, "the adapters change nothing"
    # Llama's norms are float32 wherever it runs; the updates themselves are not.
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()
    ours_, sums = deltas(base, [(tmp_path / "out", 1.0)]), deltas(base, weighted)
    assert ours_.keys() == sums.keys()
    for module, delta in sums.items():
        assert (ours_[module] - delta).norm() <= 1e-13 * delta.norm(), module


@pytest.mark.parametrize("name", FORWARD)
def test_peft_loads_every_tensor_and_no_other_module(name: str, tmp_path: Path) -> None:
    base, configs, weights = FORWARD[name]
    held = parts(base, configs, tmp_path)
    at.stack(held, weights=weights, out=tmp_path / "out")
    said = loading(base, tmp_path / "out")
    assert (said.missing, said.unexpected) == ([], [])
    assert said.adapted == {e.target for e in at.open(tmp_path / "out").entries}
    wanted = {e.target for folder in held for e in at.open(folder).entries}
    assert said.adapted == wanted


@pytest.mark.parametrize("base", [convolutions, attention], ids=["convolutions", "attention"])
def test_updates_are_the_sum_of_pefts(base: Callable[[], Any], tmp_path: Path) -> None:
    targets = {convolutions: (["line", "plane", "point"], ["space", "plane"]),
               attention: (["mha"], ["mha", "head"])}[base]  # fmt: skip
    one = made(base, tmp_path / "a", 1, target_modules=targets[0], r=2, lora_alpha=3)
    two = made(base, tmp_path / "b", 2, target_modules=targets[1], r=3, use_rslora=True)
    at.stack([one, two], weights=[0.8, -1.5], out=tmp_path / "out", dtype="float64")
    expected = deltas(base, [(one, 0.8), (two, -1.5)])
    ours = deltas(base, [(tmp_path / "out", 1.0)])
    assert ours.keys() == expected.keys()
    for name, delta in expected.items():
        assert (ours[name] - delta).norm() <= 1e-13 * delta.norm(), name
    said = loading(base, tmp_path / "out")
    assert (said.missing, said.unexpected) == ([], [])


@pytest.mark.parametrize("name", ["llama", "patterns", "gpt2", "opt_bias", "saved", "tokens"])
def test_merging_it_is_merging_the_parts(name: str, tmp_path: Path) -> None:
    base, configs, weights = FORWARD[name]
    base().save_pretrained(tmp_path / "base")
    held = parts(base, configs, tmp_path)
    at.stack(held, weights=weights, out=tmp_path / "out", dtype="float64")
    for out, adapters, scale in (
        ("once", [str(tmp_path / "out")], [1.0]),
        ("parts", [str(h) for h in held], weights),
    ):
        at.merge(adapters, scale=scale, base=tmp_path / "base", out=tmp_path / out)
    one, many = (merged(tmp_path / each) for each in ("once", "parts"))
    assert one.keys() == many.keys()
    for tensor, value in many.items():
        assert torch.allclose(one[tensor], value, rtol=0, atol=3e-7), tensor


def merged(folder: Path) -> dict[str, torch.Tensor]:
    """Read a merged model."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_output_is_plain_deterministic_and_finds_favour(tmp_path: Path) -> None:
    base, configs, weights = FORWARD["patterns"]
    held = parts(base, configs, tmp_path)
    for out in ("one", "two"):
        at.stack(held, weights=weights, out=tmp_path / out)
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("one", "two")
    )
    assert sorted(one) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "adaptertools.stack.json",
    ]  # fmt: skip
    del one["README.md"], two["README.md"]  # its title is the folder's name
    assert one == two
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert (
        config["r"]
        == config["lora_alpha"]
        == max(entry.rank for entry in at.open(tmp_path / "one").entries)
    )
    assert not config["use_rslora"]
    assert {entry.scale for entry in at.open(tmp_path / "one").entries} == {1.0}
    said = at.validate(tmp_path / "one").findings
    assert not [f for f in said if f.level != "note" and not f.code.startswith(("BAS", "CRD"))]
