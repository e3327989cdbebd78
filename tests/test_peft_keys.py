"""Names of tensors: the quick way to take them apart is no other way."""

from collections import Counter
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from adaptertools import peft_keys

PARTS = ["base_model", "model", "module", "_orig_mod", "base_layer", "modules_to_save", "default",
         "original_module", "token_adapter", "trainable_tokens_delta", "lora_A", "lora_B", "layers",
         "lora_embedding_A", "lora_magnitude_vector", "lora_sampler_A", "lora_", "weight", "bias",
         "0", "q_proj", "", "xlora_A", "_fsdp_wrapped_module",
         "_checkpoint_wrapped_module"]  # fmt: skip
parts = st.lists(st.sampled_from(PARTS), max_size=8).map(".".join)
names = parts | parts.map(lambda name: f"base_model.model.{name}")
usual = parts.map(lambda name: f"base_model.model.{name}.lora_A.weight")


@settings(max_examples=1000, deadline=None)
@given(names | usual)
def test_the_quick_way_gives_what_the_long_way_does(name: str) -> None:
    quick, long = Counter[str](), Counter[str]()
    found = peft_keys.parse(name, "lora_", quick)
    with patch.object(peft_keys, "_usual", lambda parts: False):
        assert found == peft_keys.parse(name, "lora_", long)
    assert quick == long


def test_the_quick_way_is_taken() -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert peft_keys._usual(name.split("."))
    key = peft_keys.parse(name, "lora_", Counter())
    assert key == peft_keys.Key("model.layers.0.self_attn.q_proj", "lora_A")
