"""Tiny models as transformers and as LitGPT have them, and LitGPT reading what we write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from tests.cases_models import DECODER, TOKENS, Builder, build, llama, qwen2
from tests.cases_recipe import INPUTS

SIZES: dict[str, Any] = {
    "block_size": 64, "vocab_size": 96, "padded_vocab_size": 96, "n_layer": 2, "n_head": 4,
    "n_embd": 32, "intermediate_size": 48, "rotary_percentage": 1.0, "parallel_residual": False,
    "bias": False,
}  # fmt: skip
GATED = {**SIZES, "norm_class_name": "RMSNorm", "norm_eps": 1e-6, "mlp_class_name": "LLaMAMLP"}
# transformers has no size of heads of this one, and no groups.
NEOX = {k: v for k, v in DECODER.items() if k not in ("num_key_value_heads",)}
FALCON = {
    **TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "ffn_hidden_size": 48, "parallel_attn": True, "bias": False, "alibi": False,
    "multi_query": True, "new_decoder_architecture": False, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A model in both libraries, and the name of LitGPT's own conversion."""

    base: Builder
    config: Mapping[str, Any]
    convert: str


KINDS = {
    "llama": Kind(llama(), {**GATED, "name": "tiny-llama", "n_query_groups": 2}, "hf_llama"),
    "qwen2": Kind(
        qwen2(), {**GATED, "name": "Qwen2.5-tiny", "n_query_groups": 2, "attn_bias": True},
        "qwen_2_5",
    ),
    "phi3": Kind(
        partial(build, Phi3ForCausalLM, Phi3Config, **DECODER, tie_word_embeddings=False),
        {**GATED, "name": "Phi-3-tiny", "n_query_groups": 2, "norm_eps": 1e-5}, "phi",
    ),
    "neox": Kind(
        partial(build, GPTNeoXForCausalLM, GPTNeoXConfig, **NEOX, tie_word_embeddings=False),
        {**SIZES, "name": "pythia-tiny", "rotary_percentage": 0.25, "parallel_residual": True,
         "bias": True}, "gpt_neox",
    ),
    "falcon": Kind(
        partial(build, FalconForCausalLM, FalconConfig, **FALCON),
        {**SIZES, "name": "falcon-7b-tiny", "n_query_groups": 1, "parallel_residual": True,
         "shared_attention_norm": True}, "falcon",
    ),
}  # fmt: skip


def folder(path: Path, kind: str, **more: Any) -> Path:
    """Write the folder that `litgpt download` makes, without weights."""
    path.mkdir(parents=True)
    config = {**KINDS[kind].config, "hf_config": {"org": "tiny", "name": "base"}, **more}
    (path / "model_config.yaml").write_text(yaml.safe_dump(config))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text("{}")
    return path


class Reader:
    """LitGPT; skips where it is not installed."""

    def __init__(self) -> None:
        pytest.importorskip("litgpt", reason="litgpt is not installed")
        from litgpt import lora, model
        from litgpt.scripts import convert_hf_checkpoint, merge_lora

        self.lora, self.model = lora, model
        self.conversion, self.merging = convert_hf_checkpoint, merge_lora.merge_lora

    def weights(self, kind: str) -> dict[str, torch.Tensor]:
        """Give the base's weights by LitGPT's own conversion."""
        made: dict[str, torch.Tensor] = {}
        config = self.model.Config(**KINDS[kind].config)
        held: dict[int, Any] = {}
        known = {"config": config, "qkv_weights": held, "state_dict": made,
                 "hf_weights": KINDS[kind].base().state_dict()}  # fmt: skip
        if kind == "neox":  # as the Hub has it; transformers 5 renames it
            known["hf_weights"]["embed_out.weight"] = known["hf_weights"].pop("lm_head.weight")
        convert: Callable[..., None] = getattr(
            self.conversion, f"copy_weights_{KINDS[kind].convert}"
        )
        names = convert.__code__.co_varnames[: convert.__code__.co_argcount]
        convert(**{name: value for name, value in known.items() if name in names})
        return made

    def logits(self, kind: str, adapter: Path) -> torch.Tensor:
        """Give what LitGPT computes with a LoRA beside the weights."""
        said = yaml.safe_load((adapter / "hyperparameters.yaml").read_text())
        own = {name: value for name, value in said.items() if name.startswith("lora_")}
        model = self.lora.GPT(self.lora.Config.from_file(adapter / "model_config.yaml", **own))
        factors = torch.load(adapter / "lit_model.pth.lora", weights_only=True)["model"]
        model.load_state_dict({**self.weights(kind), **factors})
        return self._run(model)

    def merged(self, kind: str, adapter: Path, base: Path) -> torch.Tensor:
        """Give what LitGPT computes after its own merge."""
        torch.save(self.weights(kind), base / "lit_model.pth")
        self.merging(adapter, base)
        model = self.model.GPT(self.model.Config.from_file(adapter / "model_config.yaml"))
        model.load_state_dict(torch.load(adapter / "lit_model.pth", weights_only=True))
        return self._run(model)

    @staticmethod
    def _run(model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model.eval()(torch.tensor(INPUTS["input_ids"]))
        return found
