"""Sizes and ranks from factors alone: held against PEFT's dense update and numpy's SVD."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from safetensors.numpy import load_file

import adaptertools as at
from adaptertools import schema
from adaptertools.verbs import _inspect_deep
from adaptertools.verbs._inspect_deep import Norm
from tests import handmade
from tests.handmade import START
from tests.kit import CASES, read, reference

Dense = NDArray[np.float64]
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "adapters"
without_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data folder")
Q = "model.layers.0.self_attn.q_proj"


def measured(thing: Any) -> dict[str, Norm]:
    found = at.inspect(thing, deep=True)
    schema.check("inspect", json.loads(json.dumps(found.as_json(), allow_nan=False)))
    assert found.norms is not None
    return {norm.target: norm for norm in found.norms}


def written(folder: Path, change: Callable[[str, Any], Any], **config: Any) -> dict[str, Norm]:
    """Write the LoRA with changed tensors, and measure it."""
    tensors = {name: change(name, tensor) for name, tensor in handmade.lora_tensors().items()}
    return measured(handmade.adapter(folder / "adapter", tensors, **config))


def assert_sizes(norm: Norm, dense: Dense, rel: float = 1e-9) -> None:
    """Hold one module's figures against the update itself."""
    dense = dense.reshape(len(dense), -1)
    values = np.linalg.svd(dense, compute_uv=False)
    shares = values[values > 0] / values.sum()
    assert norm.why == ""
    assert norm.norm == pytest.approx(np.linalg.norm(dense), rel=rel)
    assert norm.spectral == pytest.approx(np.linalg.norm(dense, 2), rel=rel)
    assert norm.effective_rank == pytest.approx(np.prod(shares**-shares), rel=1e-6)
    assert norm.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=rel)
    assert norm.rank == np.linalg.matrix_rank(dense)


ORACLE = ["linear_qwen2", "patterns", "rslora_patterns", "conv1d_gpt2_head", "conv_all_biased",
          "multihead_attention", "embedding", "embedding_gpt2", "adapter_bfloat16", "dora_linear",
          "dora_embedding", "dora_conv2d", "monteclora", "tied_both", "replicated"]  # fmt: skip


@pytest.mark.parametrize("case", ORACLE)
def test_sizes_are_those_of_pefts_update(case: str, tmp_path: Path) -> None:
    CASES[case].build(tmp_path, torch.bfloat16)
    ours = measured(tmp_path / "adapter")
    model = CASES[case].load_peft(tmp_path)
    layers = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert ours.keys() == layers.keys()
    for name, layer in layers.items():
        dense = layer.get_delta_weight("default").detach().numpy()
        assert_sizes(ours[name], dense)


def test_block_diagonal_factors(tmp_path: Path) -> None:
    case = CASES["bdlora"]  # PEFT gives no update of these, but it merges them
    case.build(tmp_path, torch.float32)
    ours, merged = measured(tmp_path / "adapter"), reference(case, tmp_path)
    for name, before in read(tmp_path / "base").items():
        target = name.removesuffix(".weight")
        if target in ours:
            assert_sizes(ours[target], (merged[name] - before.double()).numpy(), rel=1e-6)
    assert len(ours) == 14


def test_the_diagonal_between_factors(tmp_path: Path) -> None:
    CASES["kasa"].build(tmp_path, torch.float32)
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    ours = measured(tmp_path / "adapter")
    assert len(ours) == 8
    for target, norm in ours.items():
        a, b, d = (held[f"{START}{target}.lora_{part}"].astype("float64")
                   for part in ("A.weight", "B.weight", "diag"))  # fmt: skip
        assert_sizes(norm, 2 * b @ np.diag(d) @ a)


@without_data
@pytest.mark.parametrize("name", ["deepbiolab__gpt2-classification-peft_peft_model",
                                  "branbot6__sift-opf-zh_adapter"])  # fmt: skip
def test_real_adapters(name: str) -> None:
    ours = measured(DATA / name)
    held = load_file(DATA / name / "adapter_model.safetensors")
    config = json.loads((DATA / name / "adapter_config.json").read_text("utf-8"))
    assert len(ours) == sum("lora_A" in name for name in held)
    for target, norm in list(ours.items())[::12]:
        a, b = (held[f"{START}{target}.lora_{x}.weight"].astype("float64") for x in "AB")
        assert_sizes(norm, config["lora_alpha"] / config["r"] * b @ a)
        assert norm.zeros == 0


@pytest.mark.parametrize("piece", [1, 7, 40])
@pytest.mark.parametrize("case", ["linear_qwen2", "embedding", "bdlora", "conv_all_biased"])
def test_pieces_make_no_difference(
    case: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CASES[case].build(tmp_path, torch.float32)
    whole = measured(tmp_path / "adapter")
    monkeypatch.setattr(_inspect_deep, "PIECE", piece)
    for target, norm in measured(tmp_path / "adapter").items():
        assert norm.norm == pytest.approx(whole[target].norm, rel=1e-12)
        assert norm.effective_rank == pytest.approx(whole[target].effective_rank, rel=1e-9)
        assert (norm.rank, norm.zeros) == (whole[target].rank, whole[target].zeros)


def test_untrained(tmp_path: Path) -> None:
    norms = written(tmp_path, lambda name, t: 0 * t if "lora_B" in name else t)
    assert {(n.norm, n.spectral, n.rank, n.effective_rank, n.zeros) for n in norms.values()} == {
        (0.0, 0.0, 0, 0.0, 1.0)
    }
    [*_, note] = at.inspect(tmp_path / "adapter", deep=True).notes
    assert note == "The change of all 4 modules is zero: this adapter was not trained."


def test_partly_untrained_and_of_lower_rank(tmp_path: Path) -> None:
    def change(name: str, tensor: Any) -> Any:
        if Q in name and "lora_B" in name:
            tensor[:, 1] = 0
        return 0 * tensor if "layers.1.mlp" in name and "lora_B" in name else tensor

    norms = written(tmp_path, change)
    assert (norms[Q].zeros, norms[Q].rank) == (0.5, 1)
    assert norms[Q].stable_rank == pytest.approx(1)
    [*_, note] = at.inspect(tmp_path / "adapter", deep=True).notes
    assert note == "The change of 1 of 4 modules is zero: model.layers.1.mlp.down_proj."


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite(value: float, tmp_path: Path) -> None:
    def change(name: str, tensor: Any) -> Any:
        if Q in name:
            tensor[0, 0] = value
        return tensor

    norms = written(tmp_path, change)
    assert norms[Q].norm is None
    assert "holds NaN or infinity" in norms[Q].why
    assert sum(norm.norm is None for norm in norms.values()) == 1


def test_what_is_too_large(tmp_path: Path) -> None:
    norms = written(tmp_path, lambda name, t: 1e300 * t.astype("float64") if Q in name else t)
    assert "too large to be measured" in norms[Q].why
    small = written(tmp_path / "small", lambda name, t: 1e-30 * t.astype("float64"))
    assert 0 < (small[Q].norm or 0) < 1e-50


def test_a_rank_beyond_what_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(_inspect_deep, "WIDEST", 1)
    norms = written(tmp_path, lambda name, tensor: tensor)
    assert "has rank 2; at most 1 is looked at" in norms[Q].why


CONFIGS: dict[str, dict[str, Any]] = {
    "rank": {"r": 3},
    "experts": {"target_parameters": ["down_proj"]},
    "blocks": {"use_bdlora": {"nblocks": "two"}},
    "no blocks": {"use_bdlora": {"nblocks": 0, "target_modules_bd_a": ["q_proj", "down_proj"]}},
    "blocks of no height": {"use_bdlora": {"nblocks": 3, "target_modules_bd_b": ["proj"]}},
    "no names": {"use_bdlora": {"nblocks": 2, "target_modules_bd_a": 5}},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_the_config_makes_impossible(case: str, tmp_path: Path) -> None:
    norms = written(tmp_path, lambda name, tensor: tensor, **CONFIGS[case])
    assert len(norms) == 4
    assert all(norm.norm is None and norm.why for norm in norms.values())


def test_half_a_pair_and_integers(tmp_path: Path) -> None:
    tensors = handmade.lora_tensors()
    del tensors[f"{START}{Q}.lora_A.weight"]
    name = f"{START}model.layers.1.self_attn.q_proj.lora_B.weight"
    tensors[name] = tensors[name].astype("int8")
    norms = measured(handmade.adapter(tmp_path / "adapter", tensors))
    assert "has no lora_A" in norms[Q].why
    assert "I8" in norms["model.layers.1.self_attn.q_proj"].why


def test_methods_without_factors(tmp_path: Path) -> None:
    found = at.inspect(handmade.adapter(tmp_path / "adapter", peft_type="LOHA"), deep=True)
    assert found.norms == ()
    assert not any(note.startswith("Sizes are given") for note in found.notes)  # no hada_ tensors
    ia3 = {f"{START}{Q}.ia3_l": handmade.noise(8, 1)}
    found = at.inspect(handmade.adapter(tmp_path / "ia3", ia3, peft_type="IA3"), deep=True)
    assert (found.norms, found.modules) == ((), 1)
    assert found.notes[-1] == "Sizes are given for LoRA only."


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    told: list[int] = []
    found = at.inspect(handmade.adapter(tmp_path / "adapter"), deep=True, progress=told.append)
    assert found.weights is not None
    assert (len(told), sum(told)) == (4, found.weights.bytes)
