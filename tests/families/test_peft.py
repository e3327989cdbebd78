"""Where PEFT 0.21 itself is wrong under transformers 5, with the proof.

LoRAs named by transformers 4: PEFT renames some of their keys; those it forgets are not applied.
The right answer is held in `test_old_adapters`.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import peft
import pytest
import torch

import adaptertools as at
from tests import kit
from tests.cases_recipe import quiet

from . import old, recipe
from .recipe import Family
from .table import FAMILIES
from .test_old_adapters import ALONE, built

pytestmark = pytest.mark.skipif(
    not peft.__version__.startswith("0.21."), reason="these are the faults of PEFT 0.21"
)

# Which of the adapted weights PEFT leaves as they were, without a word or with a warning.
SILENT = {
    "gpt_neox": r"embed_out",
    "qwen2_moe": r"\.mlp\.experts\.",
    "deepseek_v2": r"\.mlp\.(gate|up|down)_proj|shared_experts",
    "deepseek_v3": r"\.mlp\.(gate|up|down)_proj|shared_experts",
}
WARNED = {"llava": r"multi_modal_projector", "qwen2_vl": "", "qwen2_5_vl": ""}


@pytest.mark.parametrize("name", [*SILENT, *WARNED])
def test_peft_loses_weights_that_an_old_adapter_changes(name: str, tmp_path: Path) -> None:
    family, summed = FAMILIES[name], built(tmp_path, name, old.TARGETS[name])
    layout = old.layout_of(family)
    base = kit.read(tmp_path / layout)
    merged = recipe.merged_by_peft(
        family, tmp_path / layout, tmp_path / "adapter", tmp_path / "peft", layout
    )
    adapted = {n for n in base if not torch.equal(summed[n], base[n].double())}
    lost = {n for n in adapted if torch.equal(merged[n], base[n].double())}
    assert lost == {n for n in adapted if re.search((SILENT | WARNED)[name], n)} != set()
    for kept in adapted - lost:
        torch.testing.assert_close(merged[kept], summed[kept], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*SILENT, *WARNED])
def test_peft_says_so_only_sometimes(name: str, tmp_path: Path) -> None:
    built(tmp_path, name, old.TARGETS[name])
    model = recipe.load(FAMILIES[name], tmp_path / old.layout_of(FAMILIES[name]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    told = [w for w in said if "missing adapter keys" in str(w.message)]
    assert bool(told) == (name in WARNED)


@pytest.mark.parametrize(
    ("name", "targets", "words"),
    [
        ("vit", old.TARGETS["vit"], "not found in the base model"),
        *((name, targets, "without also targeting") for name, targets in ALONE.items()),
    ],
)
def test_peft_cannot_load_these_old_adapters(
    name: str, targets: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    built(tmp_path, name, targets)
    family = FAMILIES[name]
    with pytest.raises(ValueError, match=words):
        recipe.with_adapter(family, tmp_path / old.layout_of(family), tmp_path / "adapter")


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_peft_trains_no_dense_mlp_beside_experts(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    recipe.save_base(family, tmp_path / "base", "saved", torch.float32)
    every = ["q_b_proj", "gate_proj", "up_proj", "down_proj"]
    for targets in ("all-linear", every):
        folder = tmp_path / ("all" if targets == "all-linear" else "named")
        config = recipe.lora(family, target_modules=targets)
        recipe.save_adapter(family, tmp_path / "base", folder, config)
        adapted = [n for n in kit.read(folder) if "lora_A" in n]
        assert any(".mlp.experts." in n for n in adapted)
        assert not any(re.search(SILENT[name], n) for n in adapted)


def test_peft_cannot_run_its_own_layer_for_llama_4s_router(tmp_path: Path) -> None:
    whole = FAMILIES["llama4_text"]
    family = Family(name=whole.name, model=whole.model, config=whole.config)
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    recipe.save_base(family, base, "saved", torch.float32)
    recipe.save_adapter(family, base, adapter)
    assert any("router.lora_A" in name for name in kit.read(adapter))
    unmerged = recipe.with_adapter(family, base, adapter)
    with pytest.raises(AttributeError, match="'tuple' object"):
        recipe.logits(family, unmerged)
    at.merge(adapter, base=base, out=out)
    with quiet():
        merged = unmerged.merge_and_unload()
    ours = recipe.logits(family, recipe.load(family, out))
    kit.assert_same_logits(ours, recipe.logits(family, merged), torch.float32)
