"""Which weights bitsandbytes would take: from names and shapes, against transformers' own loader."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from adaptertools.layouts.linears import Linears, linears
from adaptertools.tensorfile import TensorSpec, read_header

TABLE = Path(__file__).parents[2] / "adaptertools" / "layouts" / "linears.json"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")
RECORDED = json.loads(TABLE.read_text("utf-8"))["transformers"]
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers' own making, not the table's
    pytest.mark.skipif(
        transformers.__version__.split(".")[:2] != RECORDED.split(".")[:2],
        reason=f"the table is of transformers {RECORDED}",
    ),
]

TINY = {
    "vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0,
}  # fmt: skip
BERT = {k: v for k, v in TINY.items() if k != "num_key_value_heads"}
MOE = TINY | {"num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}
T5 = {"vocab_size": 99, "d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 3, "num_heads": 4}
OPT = BERT | {"ffn_dim": 96, "word_embed_proj_dim": 64}
GPT2 = {"vocab_size": 99, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64}
VIT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "image_size": 32,
       "num_attention_heads": 4, "patch_size": 16}  # fmt: skip
WHISPER = {"vocab_size": 99, "d_model": 64, "encoder_layers": 1, "decoder_layers": 3,
           "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "pad_token_id": 0}  # fmt: skip
LLAVA = {"text_config": TINY | {"model_type": "qwen2"},
         "vision_config": VIT | {"model_type": "clip_vision_model"}}  # fmt: skip
QWEN_VL = {"text_config": TINY | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
           "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}}  # fmt: skip
DEEPSEEK = MOE | {"q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "n_group": 1,
                  "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "topk_group": 1,
                  "first_k_dense_replace": 1}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", TINY),
    "llama, tied": ("LlamaForCausalLM", TINY | {"tie_word_embeddings": True}),
    "llama, base": ("LlamaModel", TINY),
    "llama, classifier": ("LlamaForSequenceClassification", TINY),
    "llama, answers": ("LlamaForQuestionAnswering", TINY),
    "opt": ("OPTForCausalLM", OPT),
    "opt, projected": ("OPTForCausalLM", OPT | {"word_embed_proj_dim": 32}),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2, classifier": ("GPT2ForSequenceClassification", GPT2 | {"pad_token_id": 0}),
    "bert, base": ("BertModel", BERT),
    "bert": ("BertForMaskedLM", BERT),
    "bert, classifier": ("BertForSequenceClassification", BERT),
    "roberta": ("RobertaForMaskedLM", BERT),
    "roberta, classifier": ("RobertaForSequenceClassification", BERT),
    "distilbert": ("DistilBertForSequenceClassification", {"vocab_size": 99, "dim": 64, "n_layers": 3,
                                                           "n_heads": 4, "hidden_dim": 96}),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5, gated and untied": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu",
                                                                "tie_word_embeddings": False}),
    "mixtral": ("MixtralForCausalLM", MOE),
    "qwen2": ("Qwen2ForCausalLM", TINY),
    "qwen3_moe": ("Qwen3MoeForCausalLM", MOE | {"mlp_only_layers": [0]}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", DEEPSEEK),
    "gpt_oss": ("GptOssForCausalLM", MOE),
    "granitemoe": ("GraniteMoeForCausalLM", MOE),
    "gemma2": ("Gemma2ForCausalLM", TINY),
    "gemma3": ("Gemma3ForCausalLM", TINY),
    "phi3": ("Phi3ForCausalLM", TINY),
    "gpt_neox": ("GPTNeoXForCausalLM", BERT),
    "bloom": ("BloomForCausalLM", {"vocab_size": 99, "hidden_size": 64, "n_layer": 3, "n_head": 4}),
    "falcon": ("FalconForCausalLM", BERT),
    "mpt": ("MptForCausalLM", {"vocab_size": 99, "d_model": 64, "n_layers": 3, "n_heads": 4}),
    "vit": ("ViTForImageClassification", VIT),
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
    "llava, of qwen2": ("LlavaForConditionalGeneration", LLAVA),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", QWEN_VL),
}  # fmt: skip


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, "BF16", shape, "", 0, 0)


def build(name: str, settings: Mapping[str, Any], device: str = "cpu") -> Any:
    cls = getattr(transformers, name)
    with torch.device(device):
        return cls(cls.config_class(**json.loads(json.dumps(settings))))


def replaced(model: Any, skip: Collection[str] | None = None) -> set[str]:
    """Let transformers replace a model's linear modules, and name those that it did."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    kept = Bnb4BitHfQuantizer.get_modules_to_not_convert(
        model, None if skip is None else list(skip), model._keep_in_fp32_modules
    )
    config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    replace_with_bnb_linear(model, kept, config)
    return {name for name, module in model.named_modules() if hasattr(module, "source_cls")}


def in_model(model: Any, names: Collection[str]) -> dict[str, str]:
    """Let transformers name the tensors of a checkpoint as its model does; fused ones left out."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    every = get_model_conversion_mapping(model)
    converters = [one for one in every if isinstance(one, WeightConverter)]
    plain = [one for one in every if not isinstance(one, WeightConverter)]
    own = model.state_dict()
    found = {
        n: rename_source_key(n, plain, converters, model.base_model_prefix, own) for n in names
    }
    return {name: place for name, (place, converter) in found.items() if converter is None}


def saved(model: Any, folder: Path) -> tuple[dict[str, Any], dict[str, TensorSpec]]:
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config, dict(read_header(folder / "model.safetensors").tensors)


def check(found: Linears, name: str, settings: Mapping[str, Any], tensors: Collection[str]) -> None:
    """Compare with what transformers replaces by default, and given our list."""
    expected = replaced(build(name, settings, "meta"))
    places = in_model(build(name, settings, "meta"), tensors)
    ours = {places[name].removesuffix(".weight") for name in found.convert}
    assert ours == expected
    assert len(found.convert) == len(expected)
    assert replaced(build(name, settings, "meta"), found.leave) == expected
    assert found.known
    assert not set(found.convert) & set(found.experts)


@pytest.mark.parametrize("case", CASES)
def test_as_transformers_would(case: str, tmp_path: Path) -> None:
    name, settings = CASES[case]
    config, tensors = saved(build(name, settings), tmp_path)
    found = linears(config, tensors)
    check(found, name, settings, tensors)
    head = build(name, settings, "meta").get_output_embeddings()
    assert head is None or any(
        key.endswith(("lm_head", "decoder", "embed_out", "proj_out")) for key in found.leave
    )
