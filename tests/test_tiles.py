"""Many small tiles give what PEFT computes: no edge of a tile is seen in the result."""

from pathlib import Path

import pytest
import torch

from adaptertools import tiles
from tests.kit import CASES
from tests.verbs.test_merge_oracle import check

# One case for each kind of update, and for each way of walking over a weight.
KINDS = [
    "linear_llama", "conv1d_gpt2", "embedding", "conv2d_3x3", "dora_linear", "dora_gpt2",
    "dora_embedding", "lora_bias", "tokens", "resized", "two_scaled", "two_dora",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_small_tiles(
    name: str, dtype: torch.dtype, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CASES[name].build(tmp_path, dtype)
    monkeypatch.setattr(tiles, "TILE", size)
    check(CASES[name], tmp_path, dtype)
