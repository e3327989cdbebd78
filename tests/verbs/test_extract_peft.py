"""Extracted adapters in PEFT and in our own merge: both give the fine-tuned model back."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import adaptertools as at
from tests import kit
from tests.cases_models import (
    bert,
    build,
    distilbert,
    gpt2,
    headless_llama,
    llama,
    opt,
    qwen2,
    roberta,
)
from tests.cases_recipe import quiet

torch.set_num_threads(1)

Model = Any


def mamba() -> Model:
    """Parameters that are no module's weight or bias, beside linear layers."""
    shape = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "conv_kernel": 3}
    return build(MambaForCausalLM, MambaConfig, vocab_size=96, **shape)


MODELS: dict[str, tuple[Callable[[], Model], Any]] = {
    "llama": (llama(), AutoModelForCausalLM),
    "llama tied": (llama(tied=True), AutoModelForCausalLM),
    "qwen2 with biases": (qwen2(), AutoModelForCausalLM),
    "gpt2 stored in, out": (gpt2(), AutoModelForCausalLM),
    "gpt2 tied": (gpt2(tied=True), AutoModelForCausalLM),
    "opt": (opt(), AutoModelForCausalLM),
    "headless llama": (headless_llama(), AutoModel),
    "bert": (bert(), AutoModel),
    "distilbert": (distilbert(), AutoModel),
    "roberta": (roberta(), AutoModel),
}


def trained(model: Model, choose: Callable[[str], bool], rank: int = 0) -> None:
    """Change parameters as training would; by updates of that rank, or all of them at random."""
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not choose(name):
                continue
            if weight.ndim == 2 and rank:
                weight += noise(len(weight), rank) @ noise(rank, weight.shape[1]) * 0.02
            else:
                weight += noise(*weight.shape) * 0.03


def save(folder: Path, model: Model, size: str = "20KB") -> None:
    with quiet():
        model.save_pretrained(folder, max_shard_size=size)


def logits(model: Model) -> torch.Tensor:
    with quiet():
        return kit.forward_logits(model.double().eval())


def in_peft(auto: Any, folder: Path, **options: Any) -> Model:
    """Load base and adapter; what PEFT warns of, it would warn users of."""
    with quiet():
        base = auto.from_pretrained(folder / "base", dtype=torch.float64, **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder / "adapter")
    texts = [str(each.message) for each in said]
    assert not [text for text in texts if "missing" in text or "unexpected" in text.lower()], texts
    return model


def merged_is(folder: Path, worst: float) -> None:
    """Hold our own merge against the fine-tuned model: off by what was stated, and a rounding."""
    at.merge(str(folder / "adapter"), base=folder / "base", out=folder / "out")
    wanted = kit.read(folder / "tuned")
    ours = kit.renamed(kit.read(folder / "out"), wanted, kit.base_prefix(folder / "base"))
    for name, tensor in wanted.items():
        ulp = torch.finfo(tensor.dtype).eps * tensor.double().abs().max().item()
        assert (ours[name].double() - tensor.double()).abs().max().item() <= worst + ulp, name


@pytest.mark.parametrize("name", MODELS)
def test_a_full_fine_tune_comes_back_whole(name: str, tmp_path: Path) -> None:
    make, auto = MODELS[name]
    model = make()
    save(tmp_path / "base", model)
    trained(model, lambda parameter: True)
    save(tmp_path / "tuned", model)
    report = at.extract(tmp_path / "base", tmp_path / "tuned", out=tmp_path / "adapter", rank="max")
    assert report.facts["error"] < 1e-7
    merged_is(tmp_path, report.facts["worst"])
    with quiet():
        expected = logits(auto.from_pretrained(tmp_path / "tuned", dtype=torch.float64))
    found = logits(in_peft(auto, tmp_path))
    kit.assert_same_logits(found, expected, torch.float32, 3e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2 stored in, out", "bert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_merged_lora_is_found_again(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    make, auto = MODELS[name]
    model = make().to(dtype)
    save(tmp_path / "base", model, "5GB")
    model = model.float()
    places = ("q_proj.weight", "c_attn.weight", "query.weight")
    trained(model, lambda parameter: parameter.endswith(places), rank=3)
    save(tmp_path / "tuned", model.to(dtype))
    report = at.extract(tmp_path / "base", tmp_path / "tuned", out=tmp_path / "adapter")
    assert len(report.facts["modules"]) == 2
    assert {each["rank"] for each in report.facts["modules"]} == {3}
    assert (report.facts["saved"], report.facts["biases"]) == ([], [])
    merged_is(tmp_path, report.facts["worst"])
    with quiet():
        expected = logits(auto.from_pretrained(tmp_path / "tuned", dtype=torch.float64))
    kit.assert_same_logits(logits(in_peft(auto, tmp_path)), expected, dtype, 1e-5)


def test_a_new_head_is_a_saved_module(tmp_path: Path) -> None:
    body = bert()()
    save(tmp_path / "base", body)
    with quiet():
        model = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    trained(model, lambda parameter: "query" in parameter or "classifier" in parameter, rank=2)
    save(tmp_path / "tuned", model)
    report = at.extract(tmp_path / "base", tmp_path / "tuned", out=tmp_path / "adapter")
    assert set(report.facts["saved"]) == {"classifier.weight", "classifier.bias"}
    found = in_peft(AutoModelForSequenceClassification, tmp_path, num_labels=3)
    kit.assert_same_logits(logits(found), logits(model), torch.float32, 1e-5)
    merged_is(tmp_path, report.facts["worst"])


ODD: dict[str, tuple[Callable[[], Model], Callable[[str], bool], Any, set[str]]] = {
    # PEFT takes every module whose name ends in "norm" along.
    "a name that others end in": (
        headless_llama(), lambda p: p in ("norm.weight", "layers.0.mlp.up_proj.weight"), AutoModel,
        {"norm.weight", *(f"layers.{i}.{x}_layernorm.weight" for i in range(2)
                          for x in ("input", "post_attention"))},
    ),
    "a norm alone": (
        llama(), lambda p: p == "model.norm.weight", AutoModelForCausalLM, {"model.norm.weight"},
    ),
    "biases alone": (qwen2(), lambda p: p.endswith("bias"), AutoModelForCausalLM, set()),
    "a bare parameter": (
        mamba, lambda p: p.endswith(("1.mixer.A_log", "0.mixer.in_proj.weight")),
        AutoModelForCausalLM,
        {f"backbone.layers.1.mixer.{x}" for x in (
            "A_log", "D", "conv1d.bias", "conv1d.weight", "dt_proj.bias", "dt_proj.weight",
            "in_proj.weight", "out_proj.weight", "x_proj.weight")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_only_whole_modules_can_bring(name: str, tmp_path: Path) -> None:
    make, choose, auto, wholes = ODD[name]
    model = make()
    save(tmp_path / "base", model)
    trained(model, choose)
    save(tmp_path / "tuned", model)
    report = at.extract(tmp_path / "base", tmp_path / "tuned", out=tmp_path / "adapter", rank="max")
    assert set(report.facts["saved"]) == wholes
    expected = logits(model)
    kit.assert_same_logits(logits(in_peft(auto, tmp_path)), expected, torch.float32, 3e-6)
    merged_is(tmp_path, report.facts["worst"])


def test_tensors_tied_under_several_names(tmp_path: Path) -> None:
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    model = build(T5ForConditionalGeneration, T5Config, vocab_size=96, **shape)
    save(tmp_path / "base", model)
    trained(model, lambda parameter: True)
    save(tmp_path / "tuned", model)
    report = at.extract(tmp_path / "base", tmp_path / "tuned", out=tmp_path / "adapter", rank="max")
    tied = {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert tied <= set(report.facts["saved"])
    merged_is(tmp_path, report.facts["worst"])


def test_a_head_on_a_body_that_was_saved_alone(tmp_path: Path) -> None:
    save(tmp_path / "base", headless_llama()())
    with quiet():
        model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    trained(model, lambda p: p in ("lm_head.weight", "model.layers.0.self_attn.q_proj.weight"))
    save(tmp_path / "tuned", model)
    report = at.extract(tmp_path / "base", tmp_path / "tuned", out=tmp_path / "adapter", rank="max")
    assert report.facts["saved"] == ["lm_head.weight"]
    expected = logits(model)
    kit.assert_same_logits(
        logits(in_peft(AutoModelForCausalLM, tmp_path)), expected, torch.float32, 3e-6
    )
    merged_is(tmp_path, report.facts["worst"])
