"""TensorRT-LLM's arrays hold each module's update as PEFT computes it, where the format puts it.

TensorRT-LLM runs on no CPU. Its hf_lora_convert.py, run by hand on a Llama and a Phi-3 in three
dtypes, wrote the same bytes wherever one scale was enough and no float32 was rounded twice.
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from transformers import Phi3Config, Phi3ForCausalLM

import adaptertools as at
from adaptertools.errors import Mismatch, Unsupported
from adaptertools.formats.trtllm import CONFIG, WEIGHTS
from tests.cases_models import build, llama
from tests.checks import tiny
from tests.stacking import deltas, made

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PHI3 = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
# lora_manager.py's numbers.
NUMBERS = {"q_proj": 1, "k_proj": 2, "v_proj": 3, "o_proj": 4, "gate_proj": 5, "up_proj": 7,
           "down_proj": 6, "qkv_proj": 0, "gate_up_proj": 5}  # fmt: skip
PATTERNS = {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"o_proj": 5}, "use_rslora": True}


def phi3() -> Any:
    return build(
        Phi3ForCausalLM, Phi3Config, vocab_size=40, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip


def tables(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Give weights as float64 and the config; two bytes without a type are bfloat16's."""
    weights, config = np.load(folder / WEIGHTS), np.load(folder / CONFIG)
    assert config.dtype == np.int32
    if weights.dtype == np.dtype("V2"):
        weights = weights.view(ml_dtypes.bfloat16)
    return weights.astype("float64")[0], config[0]


@pytest.mark.parametrize(
    ("dtype", "near"), [(None, 1e-6), ("float16", 4e-3), ("bfloat16", 4e-2)], ids=str
)
@pytest.mark.parametrize("model", ["llama", "phi3"])
def test_each_row_is_what_peft_computes(
    model: str, dtype: str | None, near: float, tmp_path: Path
) -> None:
    base, targets = {"llama": (llama(), LLAMA), "phi3": (phi3, PHI3)}[model]
    made(base, tmp_path / "in", target_modules=targets, r=3, lora_alpha=7, **PATTERNS)
    at.convert(tmp_path / "in", to="trtllm", out=tmp_path / "out", dtype=dtype)
    weights, config = tables(tmp_path / "out")
    updates = deltas(base, [(tmp_path / "in", 1.0)])
    assert len(weights) == len(config) == len(updates) == 2 * len(targets)
    for name, delta in updates.items():
        parts = name.split(".")
        number, layer = NUMBERS[parts[-1]], int(parts[parts.index("layers") + 1])
        (row,) = [i for i, (n, at, _) in enumerate(config) if (n, at) == (number, layer)]
        rank, (rows, columns) = config[row, 2], delta.shape
        assert rank == (2 if parts[-1] == "down_proj" else 3)
        down = weights[row, : rank * columns].reshape(rank, columns)
        up = weights[row, rank * columns : rank * (columns + rows)].reshape(rows, rank)
        assert not weights[row, rank * (columns + rows) :].any()
        if parts[-1] == "gate_up_proj":  # TensorRT-LLM has the up projection first
            up = np.concatenate([up[rows // 2 :], up[: rows // 2]])
        np.testing.assert_allclose(up @ down, delta.detach().numpy(), rtol=0, atol=near)


def test_a_rank_and_what_is_stored(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "in")
    at.convert(tmp_path / "in", to="trtllm", out=tmp_path / "out", rank=8)
    weights, config = tables(tmp_path / "out")
    assert set(config[:, 2]) == {8}
    assert weights.shape == (4, 8 * 2 * tiny.WIDTH)
    report = at.convert(tmp_path / "in", to="trtllm", out=tmp_path / "half", dtype="float16")
    assert np.load(tmp_path / "half" / WEIGHTS).dtype == np.float16
    assert report.facts["exactness"] == "exact up to dtype"
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == sorted(
        [WEIGHTS, CONFIG, "README.md", "adaptertools.convert.json"]
    )


def test_what_it_does_not_hold(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(llama(), tmp_path / "head", target_modules=["q_proj", "lm_head"])
    with pytest.raises(Unsupported, match=r"^lm_head: TensorRT-LLM's arrays have no number"):
        at.convert(tmp_path / "head", to="trtllm", out=out)
    tiny.adapter(tmp_path / "in")
    with pytest.raises(Unsupported, match="has no option arch"):
        at.convert(tmp_path / "in", to="trtllm", out=out, options={"arch": "llama"})
    tiny.set_tensors(tmp_path / "in", doubled)
    with pytest.raises(Unsupported, match="float64: TensorRT-LLM's arrays are of float32, float16"):
        at.convert(tmp_path / "in", to="trtllm", out=out)
    tiny.adapter(tmp_path / "odd")
    tiny.set_tensors(tmp_path / "odd", halfless)
    tiny.set_config(tmp_path / "odd", target_modules=["gate_up_proj"])
    with pytest.raises(Mismatch, match="has 7 rows, which are no gate and up"):
        at.convert(tmp_path / "odd", to="trtllm", out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head", "in", "odd"]


def doubled(held: tiny.Arrays) -> tiny.Arrays:
    return {name: values.astype("float64") for name, values in held.items()}


def halfless(held: tiny.Arrays) -> tiny.Arrays:
    start = f"{tiny.START}0.mlp.gate_up_proj.lora_"
    return {f"{start}A.weight": tiny.noise(2, 8), f"{start}B.weight": tiny.noise(7, 2)}
