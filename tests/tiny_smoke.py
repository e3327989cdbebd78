"""Tiny models, adapters that show, and right and wrong merges of them, for the tests of smoke.

base = make("llama", folder / "base")
adapter = tune("llama", base, folder / "adapter")
wrong = fold("llama", base, adapter, folder / "twice", factor=2)
found = ask(wrong, adapter, base=base)
"""

import json
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer

import adaptertools as at
from adaptertools import schema
from adaptertools.verbs.demo_model import tokenizer
from adaptertools.verbs.smoke import Smoke
from tests.cases_recipe import quiet

bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
# Architecture, its config, the PEFT task, and what it adapts.
MODELS: dict[str, tuple[str, dict[str, Any], str | None, Any]] = {
    "llama": ("LlamaForCausalLM", {"intermediate_size": 128, "num_key_value_heads": 2},
              "CAUSAL_LM", "all-linear"),
    "opt": ("OPTForCausalLM", {"ffn_dim": 128, "word_embed_proj_dim": 64}, "CAUSAL_LM",
            ["q_proj", "v_proj", "fc1"]),
    "t5": ("T5ForConditionalGeneration",
           {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
            "decoder_start_token_id": 0}, "SEQ_2_SEQ_LM", ["q", "v", "wi", "wo"]),
    "bert": ("BertModel", {"intermediate_size": 128}, "FEATURE_EXTRACTION", ["query", "dense"]),
    "classifier": ("BertForSequenceClassification", {"intermediate_size": 128, "num_labels": 3},
                   "SEQ_CLS", ["query", "dense"]),
    "tagger": ("BertForTokenClassification", {"intermediate_size": 128, "num_labels": 5},
               "TOKEN_CLS", ["query", "dense"]),
    "reader": ("BertForQuestionAnswering", {"intermediate_size": 128}, "QUESTION_ANS",
               ["query", "dense"]),
}  # fmt: skip


def config(kind: str, **changes: Any) -> Any:
    """Give the config of a tiny model."""
    name, own, _, _ = MODELS[kind]
    sizes = {k: v for k, v in SIZE.items() if kind != "t5" or k == "vocab_size"}
    made = getattr(transformers, name).config_class(**(sizes | own | changes))
    for each in ("initializer_range", "init_std"):
        if hasattr(made, each):
            setattr(made, each, 0.1)
    return made


def make(kind: str, folder: Path, *, words: bool = False, seed: int = 0, **changes: Any) -> Path:
    """Save a random model; with `words`, beside a tokenizer of bytes."""
    torch.manual_seed(seed)
    if words:
        changes["vocab_size"] = len(tokenizer())
    with quiet():
        getattr(transformers, MODELS[kind][0])(config(kind, **changes)).save_pretrained(folder)
        if words:
            tokenizer().save_pretrained(folder)
            assert AutoTokenizer.from_pretrained(folder)
    return folder


def tune(
    kind: str, base: Path, folder: Path, *, size: float = 0.05, seed: int = 1,
    on: Path | None = None, **options: Any,
) -> Path:  # fmt: skip
    """Save a LoRA whose update is random, and large enough to be seen; made `on` another base."""
    name, _, task, targets = MODELS[kind]
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": targets, "task_type": task} | options
    with quiet(), torch.no_grad():
        model = getattr(transformers, name).from_pretrained(on or base)
        tuned: Any = get_peft_model(model, LoraConfig(**options))
        for part, weight in tuned.named_parameters():
            if "lora_B" in part and size:
                torch.nn.init.normal_(weight, std=size)
            elif weight.requires_grad and "lora_A" not in part:
                weight.mul_(1 + size).add_(size * torch.randn(weight.shape))
        tuned.peft_config["default"].base_model_name_or_path = str(base)
        tuned.save_pretrained(folder)
    return folder


def fold(kind: str, base: Path, adapter: Path, folder: Path, *, factor: float = 1) -> Path:
    """Merge with PEFT, the update taken `factor` times."""
    with quiet():
        model = getattr(transformers, MODELS[kind][0]).from_pretrained(base)
        tuned: Any = PeftModel.from_pretrained(model, adapter)
        for module in tuned.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling["default"] *= factor
        tuned.merge_and_unload().save_pretrained(folder)
    return folder


def stored(kind: str, model: Path, folder: Path, *, after_forward: bool = False) -> Path:
    """Save a model in nf4, as transformers does: rightly, or after it was run."""
    with quiet():
        made = getattr(transformers, MODELS[kind][0]).from_pretrained(
            model, device_map={"": "cpu"},
            quantization_config=transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4"
            ),
        )  # fmt: skip
        if after_forward:
            with torch.no_grad():
                made.eval()(torch.tensor([[1, 2, 3]]))
        made.save_pretrained(folder)
    return folder


class Street:
    """A folder with models of each kind, made once: base, adapter, merged with a factor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, kind: str, factor: float = 1) -> tuple[Path, Path, Path]:
        """Give the three folders."""
        base, adapter, merged = (
            self.folder / kind / name for name in ("base", "adapter", f"times{factor:g}")
        )
        if not base.exists():
            make(kind, base, words=kind == "llama")
            tune(kind, base, adapter)
        if not merged.exists():
            fold(kind, base, adapter, merged, factor=factor)
        return base, adapter, merged


def ask(thing: Path, *adapters: Path, **options: Any) -> Smoke:
    """Run smoke shortly, without the network, and hold what it gives against its schema."""
    with patch.object(socket.socket, "connect", side_effect=AssertionError("it used the network")):
        found = at.smoke(thing, adapters=adapters, max_new_tokens=5, **options)
    schema.check("smoke", json.loads(json.dumps(found.as_json(), allow_nan=False)))
    return found


def codes(found: Smoke) -> set[str]:
    """Give the codes of what was found, but that token ids stand in for words."""
    return {finding.code for finding in found.findings} - {"SMK030"}
