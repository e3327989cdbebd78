"""Which weights bitsandbytes would take, told from names, against what transformers replaces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from adaptertools.errors import Unsupported
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
DISTIL = {"vocab_size": 99, "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96}
GPT2 = {"vocab_size": 99, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64}
VIT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "image_size": 32,
       "num_attention_heads": 4, "patch_size": 16}  # fmt: skip
WHISPER = {"vocab_size": 99, "d_model": 64, "encoder_layers": 1, "decoder_layers": 3,
           "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "pad_token_id": 0}  # fmt: skip
LLAVA = {"text_config": TINY | {"model_type": "qwen2"},
         "vision_config": VIT | {"model_type": "clip_vision_model"}}  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
SEEING = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64}
QWEN_VL = {"text_config": TINY | ROPE, "vision_config": SEEING}
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
    "distilbert": ("DistilBertForSequenceClassification", DISTIL),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5, gated": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
    "t5, untied": ("T5ForConditionalGeneration", T5 | {"tie_word_embeddings": False}),
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


def specs(*names: str) -> dict[str, TensorSpec]:
    return {name: spec(name, 8, 8) for name in names}


def build(name: str, settings: Mapping[str, Any], device: str = "meta") -> Any:
    cls = getattr(transformers, name)
    with torch.device(device):
        return cls(cls.config_class(**json.loads(json.dumps(settings))))


def checkpoint(case: str, folder: Path) -> tuple[dict[str, Any], dict[str, TensorSpec]]:
    """Save a tiny model and read what is in its files."""
    name, settings = CASES[case]
    build(name, settings, "cpu").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config, dict(read_header(folder / "model.safetensors").tensors)


def replaced(case: str, skip: Collection[str] | None = None) -> dict[str, str]:
    """Let transformers replace a model's linear modules: which it did, and what they were."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    model = build(*CASES[case])
    kept = Bnb4BitHfQuantizer.get_modules_to_not_convert(
        model, None if skip is None else list(skip), model._keep_in_fp32_modules
    )
    replace_with_bnb_linear(model, kept, transformers.BitsAndBytesConfig(load_in_4bit=True))
    modules = model.named_modules()
    return {name: m.source_cls.__name__ for name, m in modules if hasattr(m, "source_cls")}


def in_model(case: str, names: Collection[str]) -> dict[str, str]:
    """Let transformers name the tensors of a checkpoint as its model does, but for fused ones."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    model = build(*CASES[case])
    every = get_model_conversion_mapping(model)
    converters = [one for one in every if isinstance(one, WeightConverter)]
    plain = [one for one in every if not isinstance(one, WeightConverter)]
    own = model.state_dict()
    new = {n: rename_source_key(n, plain, converters, model.base_model_prefix, own) for n in names}
    return {name: place for name, (place, converter) in new.items() if converter is None}


def hits(skip: Collection[str], path: str) -> bool:
    """Ask transformers whether a skip list hits a module."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    return not should_convert_module(path, list(skip))


def check(case: str, found: Linears, names: Collection[str]) -> None:
    """Compare with what transformers replaces by default, and what it does given our list."""
    expected = replaced(case)
    modules = {n: place.removesuffix(".weight") for n, place in in_model(case, names).items()}
    assert sorted(modules[name] for name in found.convert) == sorted(expected)
    assert replaced(case, found.leave) == expected
    transposed = {modules[name] for name in found.transposed}
    assert transposed == {name for name, kind in expected.items() if kind == "Conv1D"}
    assert found.known


@pytest.mark.parametrize("case", CASES)
def test_as_transformers_would(case: str, tmp_path: Path) -> None:
    config, tensors = checkpoint(case, tmp_path)
    found = linears(config, tensors)
    check(case, found, tensors)
    matrices = {n for n, s in tensors.items() if len(s.shape) == 2 and n.endswith(".weight")}
    left = matrices - {*found.convert, *found.experts}
    places = in_model(case, left)
    assert {places[name].removesuffix(".weight") for name in left} <= {*found.leave}
    model = build(*CASES[case])
    head = model.get_output_embeddings()
    assert {n for n, module in model.named_modules() if module is head} <= {*found.leave}


@pytest.mark.parametrize("case", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe"])
def test_experts_stay(case: str, tmp_path: Path) -> None:
    config, tensors = checkpoint(case, tmp_path)
    found = linears(config, tensors)
    experts = {n for n in tensors if ".experts." in n or "put_linear" in n}
    assert set(found.experts) == {n for n in experts if not n.endswith("bias")}
    stored_alone = {n.rpartition(".experts.")[0] + ".experts" for n in experts if ".0.w" in n}
    assert stored_alone <= {*found.leave}  # for readers to which each of them is a module


@pytest.mark.parametrize(("case", "prefix"), [("gpt2", "transformer."), ("bert", "bert.")])
def test_a_checkpoint_without_the_prefix(case: str, prefix: str, tmp_path: Path) -> None:
    config, tensors = checkpoint(case, tmp_path)
    bare = {n.removeprefix(prefix): s for n, s in tensors.items()}
    found = linears(config, bare)
    check(case, found, bare)
    assert found.leave == linears(config, tensors).leave


def test_a_base_model_whose_tensors_have_the_prefix(tmp_path: Path) -> None:
    config, tensors = checkpoint("bert, base", tmp_path)
    prefixed = {f"bert.{n}": s for n, s in tensors.items()}
    check("bert, base", linears(config, prefixed), prefixed)


def test_names_of_before_transformers_5(tmp_path: Path) -> None:
    config, tensors = checkpoint("llava, of qwen2", tmp_path)
    assert "language_model.model.layers.0.mlp.up_proj.weight" in tensors
    old = {n.replace("vision_tower.", "vision_tower.vision_model."): s for n, s in tensors.items()}
    check("llava, of qwen2", linears(config, old), old)
    places = in_model("llava, of qwen2", tensors)
    new = {places[n]: s for n, s in tensors.items()}
    check("llava, of qwen2", linears(config, new), new)


def test_a_class_that_the_table_lacks_keeps_what_is_outside_its_base_model(tmp_path: Path) -> None:
    config, tensors = checkpoint("roberta, classifier", tmp_path)
    found = linears(config | {"architectures": ["RobertaForMultipleChoice"]}, tensors)
    expected = {n for n in replaced("roberta, classifier") if n.startswith("roberta.")}
    assert {name.removesuffix(".weight") for name in found.convert} == expected
    assert {"classifier.dense", "classifier.out_proj", "lm_head"} <= {*found.leave}
    assert set(replaced("roberta, classifier", found.leave)) == expected
    assert found.known


def test_names_that_the_model_may_call_otherwise_stay(tmp_path: Path) -> None:
    config, tensors = checkpoint("llama", tmp_path)
    odd = {n.replace("layers.1.mlp", "layers.1.ffn"): s for n, s in tensors.items()}
    found = linears(config, odd)
    modules = {n.removesuffix(".weight") for n in found.convert}
    assert modules == {n for n in replaced("llama") if "layers.1.mlp" not in n}
    assert set(replaced("llama", found.leave)) == modules


def test_layers_that_the_model_has_not_stay(tmp_path: Path) -> None:
    config, tensors = checkpoint("deepseek_v3", tmp_path)
    beyond = "model.layers.61.self_attn.o_proj"  # a layer that predicts, and is ignored
    found = linears(config, tensors | specs(f"{beyond}.weight"))
    assert beyond in found.leave
    assert f"{beyond}.weight" not in found.convert
    deeper = linears(config | {"num_hidden_layers": 62}, tensors | specs(f"{beyond}.weight"))
    assert f"{beyond}.weight" in deeper.convert


@pytest.mark.parametrize(
    "config",
    [{}, {"model_type": "nonsense"}, {"architectures": "x", "model_type": ["y"]},
     {"model_type": "llama", "architectures": ["MyLlama"], "auto_map": {"AutoModel": "my.Llama"}}],
)  # fmt: skip
def test_custom_code_is_judged_by_names(config: dict[str, Any]) -> None:
    layer = "model.layers.0."
    sure = [f"{layer}self_attn.q_proj.weight", f"{layer}mlp.down_proj.weight"]
    doubtful = ["lm_head", "model.embed_tokens", f"{layer}mlp.gate", f"{layer}router.o_proj",
                f"{layer}attn.c_attn", f"{layer}attn.query_key_value", "score",
                "output", f"{layer}norm"]  # fmt: skip
    expert = f"{layer}mlp.experts.7.up_proj.weight"
    tensors = specs(*sure, *(f"{n}.weight" for n in doubtful), expert, "model.up_proj.bias")
    tensors |= {n: spec(n, 8) for n in ("model.layers.1.mlp.up_proj.weight",)}
    found = linears(config, tensors)
    assert found.convert == tuple(sure)
    assert {*doubtful, f"{layer}mlp.experts"} == {*found.leave}
    assert found.experts == (expert,)
    assert not found.known


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}])
@pytest.mark.parametrize(
    "other",
    ["j", "model.layers", "model.layers.0.self", "(", "a+", "", "model.layers.[0-9]", ".*"],
)
def test_the_list_hits_nothing_that_is_converted(config: dict[str, Any], other: str) -> None:
    path = "model.layers.0.self_attn.q_proj"
    found = linears(config, specs(f"{path}.weight", f"{other}.weight"))
    assert found.convert == (f"{path}.weight",)
    assert not hits(found.leave, path)
    assert not other or hits(found.leave, other)


def test_llama_4_is_refused(tmp_path: Path) -> None:
    settings = MOE | {"interleave_moe_layer_step": 1, "intermediate_size_mlp": 96, "head_dim": 16}
    build("Llama4ForCausalLM", settings, "cpu").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    tensors = read_header(tmp_path / "model.safetensors").tensors
    with pytest.raises(Unsupported, match=r"stored fused, as in model\.layers\.0"):
        linears(config, tensors)


def test_the_table_is_what_transformers_says() -> None:
    from . import generate_linears

    kinds = frozenset({"llama", "opt", "mixtral", "llava", "t5"})
    actual = json.loads(generate_linears.models.render(generate_linears.facts(kinds)))
    recorded = json.loads(TABLE.read_text("utf-8"))
    assert actual["models"] == {kind: recorded["models"][kind] for kind in sorted(kinds)}
    assert actual["transformers"] == recorded["transformers"]


def test_the_table_is_written_as_it_would_be() -> None:
    from .generate_models import render

    text = TABLE.read_text("utf-8")
    assert render(json.loads(text)) == text
    models = json.loads(TABLE.with_name("models.json").read_text("utf-8"))
    assert json.loads(text)["models"].keys() <= models["models"].keys()
    assert json.loads(text)["transformers"] == models["transformers"]


def test_no_library_is_imported() -> None:
    code = (
        "import sys; from adaptertools.layouts.linears import linears; "
        "linears({'model_type': 'gpt2'}, {}); "
        "assert not {'torch', 'transformers', 'numpy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TABLE.parents[2])
