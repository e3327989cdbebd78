"""Cases of whole tensors in an adapter: saved modules, resized vocabularies, trained tokens."""

from collections.abc import Callable

import torch
from torch import nn

from tests.cases_models import VOCAB, gpt2, llama
from tests.cases_plain import causal, lora

TOKEN_KEYS = ("embed_tokens.token_adapter.trainable_tokens_delta",)
BIGGER = VOCAB + 8


def shift(*names: str) -> Callable[[nn.Module], None]:
    """Return a change of the named base parameters, as if they had been trained or resized."""

    def drift(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(7)
        found = [p for n, p in model.named_parameters() if n.endswith(names)]
        assert found, f"the model has no parameter that ends with {names}"
        with torch.no_grad():
            for parameter in found:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    return drift


SAVED = (
    causal(
        "save_lm_head",
        llama(),
        lora("q_proj", modules_to_save=["lm_head"]),
        keys=("lm_head.weight",),
    ),
    causal("save_norms", llama(), lora("q_proj", modules_to_save=["input_layernorm"])),
    causal(
        "save_resized",
        llama(),
        lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]),
        resize=BIGGER,
        shard_size="20KB",
        keys=("embed_tokens.weight", "lm_head.weight"),
    ),
    causal(
        "resized",  # nothing trains the embeddings; PEFT writes them because the vocabulary grew
        llama(),
        lora("q_proj"),
        resize=BIGGER,
        drift=shift("embed_tokens.weight", "lm_head.weight"),
        keys=("embed_tokens.weight", "lm_head.weight"),
    ),
    causal(
        "resized_targets",
        llama(),
        lora("q_proj", "embed_tokens", "lm_head"),
        resize=BIGGER,
        drift=shift("embed_tokens.base_layer.weight", "lm_head.base_layer.weight"),
        keys=("embed_tokens.base_layer.weight", "lm_head.base_layer.weight"),
    ),
)

TOKENS = (
    causal("tokens", llama(), lora("q_proj", trainable_token_indices=[3, 7, 90]), keys=TOKEN_KEYS),
    causal(
        "tokens_unsorted",
        gpt2(),
        lora("c_attn", trainable_token_indices={"wte": [90, 2, 41]}),
        keys=("wte.token_adapter.trainable_tokens_delta",),
    ),
    causal(
        "tokens_both",
        llama(),
        lora("q_proj", trainable_token_indices={"embed_tokens": [3, 7], "lm_head": [5, 3, 8]}),
        keys=(*TOKEN_KEYS, "lm_head.token_adapter.trainable_tokens_delta"),
    ),
)

WHOLE = SAVED + TOKENS
