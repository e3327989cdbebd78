"""smoke runs adapters as they were trained: switched, summed, with heads, rows and magnitudes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import Mismatch, Unsupported
from tests.tiny_smoke import Street, ask, codes, make, quiet, tune


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return Street(tmp_path_factory.mktemp("smoke"))


def test_adapters_are_switched_in_turn(street: Street) -> None:
    base, one, _ = street("llama")
    two = tune("llama", base, street.folder / "two", seed=5)
    found = ask(one, two)
    assert (found.ok, found.verdict, found.share) == (True, "runs", None)
    assert [row.name for row in found.rows] == ["base", "adapter 1", "adapter 2"]
    assert [row.ref for row in found.rows] == [str(base), str(one), str(two)]
    assert len({row.answers for row in found.rows}) == 3
    assert all(pair.kl > 0.01 and pair.other == "base" for pair in found.pairs)
    alone = ask(two)
    assert alone.rows[1].answers == found.rows[2].answers
    assert codes(found) == set()


def test_a_receipt_names_base_adapters_and_scales(street: Street) -> None:
    base, one, _ = street("llama")
    two = tune("llama", base, street.folder / "other", seed=6)
    at.merge([one, two], base=base, out=street.folder / "both", scale=[0.5, -0.75])
    found = ask(street.folder / "both")
    assert (found.ok, found.verdict, codes(found)) == (True, "adapter", set())
    assert found.share.value == pytest.approx(1, abs=1e-4)
    assert found.rows[1].ref == f"{one} + {two}"
    with pytest.raises(Mismatch, match="names 2 adapters, and 1 were given"):
        at.smoke(street.folder / "both", adapters=[one])


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1, 2, 30]}],
    ids=lambda options: next(iter(options)),
)
def test_adapters_with_more_than_factors(options: Any, street: Street) -> None:
    base, _, _ = street("llama")
    name = next(iter(options))
    adapter = tune("llama", base, street.folder / name, **options)
    at.merge(adapter, base=base, out=street.folder / f"{name}-merged")
    found = ask(street.folder / f"{name}-merged")
    assert (found.ok, found.verdict) == (True, "adapter")
    assert found.share.value == pytest.approx(1, abs=1e-4)
    # transformers' load_adapter does not find the magnitudes; PEFT's own loader does.
    assert codes(found) == ({"SMK023"} if name == "use_dora" else set())
    at.merge(adapter, base=base, out=street.folder / f"{name}-half", scale=0.5)
    with pytest.raises(Unsupported, match="plain LoRA"):
        at.smoke(street.folder / f"{name}-half")


def test_an_untrained_adapter_is_said_and_no_error(street: Street) -> None:
    base, _, _ = street("llama")
    empty = tune("llama", base, street.folder / "empty", size=0)
    found = ask(empty)
    assert (found.ok, codes(found)) == (True, {"SMK020"})
    at.merge(empty, base=base, out=street.folder / "empty-merged")
    found = ask(street.folder / "empty-merged")
    assert (found.ok, found.verdict, codes(found)) == (True, "unseen", {"SMK020"})


def test_an_adapter_that_brings_a_head_for_a_bare_base(street: Street) -> None:
    base, _, _ = street("bert")
    adapter, merged = street.folder / "head", street.folder / "headed"
    with quiet(), torch.no_grad():
        model = transformers.BertForSequenceClassification.from_pretrained(base, num_labels=3)
        config = LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS")
        tuned: Any = get_peft_model(model, config)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
        tuned.save_pretrained(adapter)
    at.merge(adapter, base=base, out=merged)
    found = ask(merged)
    assert (found.kind, found.ok, found.verdict) == ("sequence", True, "adapter")
    assert codes(found) == {"SMK002"}
    assert ask(adapter, base=base).kind == "sequence"


@pytest.mark.parametrize("saved", [["embed_tokens", "lm_head"], None], ids=str)
def test_an_adapter_with_a_larger_vocabulary(saved: list[str] | None, street: Street) -> None:
    base, _, _ = street("llama")
    adapter, merged = (street.folder / f"{kind}-{bool(saved)}" for kind in ("grown", "large"))
    with quiet(), torch.no_grad():
        model = transformers.LlamaForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(model.config.vocab_size + 6, mean_resizing=False)
        config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved)
        tuned: Any = get_peft_model(model, config)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
        tuned.save_pretrained(adapter)
    at.merge(adapter, base=base, out=merged)
    found = ask(merged)
    assert (found.ok, found.verdict) == (True, "adapter")
    assert found.share.value == pytest.approx(1, abs=1e-3)


def test_biases_cannot_be_switched_off(street: Street) -> None:
    base = make("opt", street.folder / "biased")
    adapter = tune("opt", base, street.folder / "biases", bias="all")
    found = ask(adapter)
    assert (found.ok, codes(found)) == (True, {"SMK021"})
    at.merge(adapter, base=base, out=street.folder / "biases-merged")
    found = ask(street.folder / "biases-merged")
    assert (found.verdict, codes(found)) == ("adapter", {"SMK021"})
    assert found.share.value == pytest.approx(1, abs=1e-3)


def test_a_part_of_an_adapter_is_not_the_adapter(street: Street, tmp_path: Path) -> None:
    base, _, _ = street("llama")
    adapter = tune("llama", base, tmp_path / "adapter", modules_to_save=["lm_head"])
    at.merge(adapter, base=base, out=tmp_path / "merged")
    for name, left in {"update": "lm_head.weight", "whole": "_proj.weight"}.items():
        found = ask(mixed(tmp_path / "merged", base, tmp_path / name, left))
        assert (found.ok, found.verdict, found.share.nearest) == (False, "part", name)
        assert "SMK016" in codes(found)


def mixed(model: Path, base: Path, folder: Path, ending: str) -> Path:
    """Copy a model, with the base's tensors for the names that end so."""
    shutil.copytree(model, folder)
    tensors, old = (load_file(each / "model.safetensors") for each in (model, base))
    tensors |= {name: old[name] for name in tensors if name.endswith(ending)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
