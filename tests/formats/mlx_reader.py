"""MLX-LM as the reader of what we write: the logits of a tiny transformers model with an adapter.

mlx = reader()          # skips where mlx-lm is not installed
mlx.logits(llama()(), folder)
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.cases_recipe import INPUTS


class Reader:
    def __init__(self) -> None:
        self.core = pytest.importorskip("mlx.core", reason="mlx is not installed")
        self.tuner = pytest.importorskip("mlx_lm.tuner.utils", reason="mlx-lm is not installed")
        self.core.set_default_device(self.core.cpu)

    def model(self, base: nn.Module) -> Any:
        """Make MLX-LM's model of the same weights."""
        said: dict[str, Any] = base.config.to_dict()
        said |= {"rope_theta": 10000.0, "n_ctx": 64, "rope_scaling": None}
        file = importlib.import_module(f"mlx_lm.models.{said['model_type']}")
        model = file.Model(file.ModelArgs.from_dict(said))
        held = {n: self.core.array(t.detach().numpy()) for n, t in base.state_dict().items()}
        held = {n.removeprefix("transformer."): t for n, t in held.items()}
        if said.get("tie_word_embeddings") and said["model_type"] == "gpt2":
            held.pop("lm_head.weight")
        model.load_weights(list(model.sanitize(split(held)).items()))
        return model

    def logits(self, base: nn.Module, folder: Path) -> np.ndarray:
        """Let MLX-LM load an adapter, and give what the model says."""
        model = self.tuner.load_adapters(self.model(base), str(folder))
        model.eval()
        return np.array(model(self.core.array(INPUTS["input_ids"])))


def split(held: dict[str, Any]) -> dict[str, Any]:
    """Take transformers 5's fused experts apart, as checkpoints have them."""
    made = {}
    for name, value in held.items():
        above, mlp, last = name.partition(".mlp.experts.")
        if name.endswith(".mlp.gate.weight") and f"{name[:-11]}experts.down_proj" in held:
            made[name.replace(".mlp.", ".block_sparse_moe.")] = value
        elif not mlp:
            made[name] = value
        for number in range(value.shape[0] if mlp else 0):
            start = f"{above}.block_sparse_moe.experts.{number}"
            if last == "down_proj":
                made[f"{start}.w2.weight"] = value[number]
            else:
                half = value.shape[1] // 2
                made[f"{start}.w1.weight"] = value[number][:half]
                made[f"{start}.w3.weight"] = value[number][half:]
    return made
