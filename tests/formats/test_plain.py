"""A plain LoRA does in PEFT what the one did that it was made of, whatever that one's config."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.tuners.lora import BdLoraConfig
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Unreadable, Unsupported
from adaptertools.formats.peft import CONFIG, WEIGHTS
from adaptertools.verbs._convert_draft import RECEIPT
from tests.cases_models import gpt2, llama
from tests.cases_recipe import INPUTS, quiet
from tests.stacking import loading, made, together

QV = ["q_proj", "v_proj"]

# LoRA settings -> whether nothing is rounded, the rank that all get, and alpha.
CASES: dict[str, tuple[dict[str, Any], bool, int, int]] = {
    "as it is": ({"target_modules": QV, "lora_alpha": 12}, True, 4, 12),
    "rslora": ({"target_modules": QV, "lora_alpha": 6, "use_rslora": True}, True, 4, 12),
    "rslora, odd": (
        {"target_modules": QV, "lora_alpha": 6, "r": 3, "use_rslora": True}, False, 3, 3),
    "ranks": ({"target_modules": QV, "lora_alpha": 8, "rank_pattern": {"v_proj": 2}}, True, 4, 8),
    "alphas": (
        {"target_modules": QV, "lora_alpha": 8, "alpha_pattern": {"layers.0.*.q_proj": 3}},
        False, 4, 8),
    "all": (
        {"target_modules": "all-linear", "lora_alpha": 5, "rank_pattern": {"up_proj": 6},
         "alpha_pattern": {"v_proj": 7}, "use_rslora": True}, False, 6, 15),
    "an embedding": ({"target_modules": ["embed_tokens", "q_proj", "lm_head"]}, True, 4, 8),
    "some layers": ({"target_modules": QV, "layers_to_transform": [1]}, True, 4, 8),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_does_the_same(case: str, tmp_path: Path) -> None:
    lora, exact, rank, alpha = CASES[case]
    source = made(llama(), tmp_path / "in", **lora)
    report = at.convert(source, to="plain", out=tmp_path / "out")
    opened = at.open(tmp_path / "out")
    assert {entry.rank for entry in opened.entries} == {rank}
    assert {entry.scale for entry in opened.entries} == {alpha / rank}
    assert not opened.config["rank_pattern"]
    assert not opened.config["use_rslora"]
    assert report.facts["exactness"] == ("exact" if exact else "exact up to dtype")
    one, two = (together(llama(), [(tmp_path / name, 1.0)]) for name in ("in", "out"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-12 if exact else 1e-6)
    said = loading(llama(), tmp_path / "out")
    assert (said.missing, said.unexpected) == ([], [])


def test_gpt2_and_a_rank(tmp_path: Path) -> None:
    source = made(gpt2(), tmp_path / "in", target_modules=["c_attn"], r=3, fan_in_fan_out=True)
    at.convert(source, to="plain", out=tmp_path / "out", rank=8)
    assert at.open(tmp_path / "out").config["r"] == 8
    one, two = (together(gpt2(), [(tmp_path / name, 1.0)]) for name in ("in", "out"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
    with pytest.raises(Unsupported, match="padding cannot shrink"):
        at.convert(source, to="plain", out=tmp_path / "small", rank=2)


def test_dtypes(tmp_path: Path) -> None:
    source = made(llama(), tmp_path / "in", target_modules=QV, alpha_pattern={"v_proj": 7})
    half = {name: t.half() for name, t in load_file(source / WEIGHTS).items()}
    save_file(half, source / WEIGHTS)
    for asked, expected in (None, torch.float32), ("float16", torch.float16):
        report = at.convert(source, to="plain", out=tmp_path / str(asked), dtype=asked)
        stored = load_file(tmp_path / str(asked) / WEIGHTS)
        assert {tensor.dtype for tensor in stored.values()} == {expected}
        assert 0 < report.facts["error"] < torch.finfo(expected).eps
    held = {n: t * (500000 if "lora_B" in n else 1) for n, t in half.items()}
    save_file({n: t.clamp(-60000, 60000) for n, t in held.items()}, source / WEIGHTS)
    with pytest.raises(Unsupported, match="float16 cannot hold"):
        at.convert(source, to="plain", out=tmp_path / "big", dtype="float16")
    assert not (tmp_path / "big").exists()


LOST: dict[str, tuple[dict[str, Any], str, bool]] = {
    "dora": ({"use_dora": True}, "DoRA's magnitudes", False),
    "a bias": ({"lora_bias": True}, "biases of lora_B", True),
    "a saved module": ({"modules_to_save": ["lm_head"]}, r"saved whole \(lm_head.weight\)", True),
    "token rows": ({"trainable_token_indices": [1, 4]}, "trained rows", True),
}


@pytest.mark.parametrize("case", LOST)
def test_what_it_cannot_hold(case: str, tmp_path: Path) -> None:
    extra, why, droppable = LOST[case]
    source = made(llama(), tmp_path / "in", target_modules=QV, **extra)
    with pytest.raises(Unsupported, match=f"plain cannot hold .*{why}"):
        at.convert(source, to="plain", out=tmp_path / "out")
    if not droppable:
        with pytest.raises(Unsupported, match="Merge it"):
            at.convert(source, to="plain", out=tmp_path / "out", drop_extras=True)
        return
    report = at.convert(source, to="plain", out=tmp_path / "out", drop_extras=True)
    assert "Dropped as asked" in report.findings[-1].text
    plain = made(llama(), tmp_path / "without", target_modules=QV)
    names = load_file(tmp_path / "out" / WEIGHTS).keys()
    assert names == load_file(plain / WEIGHTS).keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "without"]


def test_nothing_is_lost_unseen(tmp_path: Path) -> None:
    source = made(llama(), tmp_path / "in", target_modules=QV)
    held = load_file(source / WEIGHTS)
    save_file({**held, "base_model.model.model.layers.0.odd": torch.ones(2)}, source / WEIGHTS)
    with pytest.raises(AdapterToolsError) as refused:
        at.convert(source, to="plain", out=tmp_path / "out")
    save_file({n: t * float("nan") for n, t in held.items()}, source / WEIGHTS)
    with pytest.raises(Unreadable, match="NaN"):
        at.convert(source, to="plain", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert "odd" in str(refused.value)


def test_an_embedding_that_was_saved_along(tmp_path: Path) -> None:
    source = made(llama(), tmp_path / "in", target_modules=["embed_tokens", "q_proj"])
    name, held = "model.embed_tokens.weight", load_file(source / WEIGHTS)
    base = llama()()
    base.save_pretrained(tmp_path / "base")
    weight = base.state_dict()[name].clone()
    for at_, along in enumerate((weight, weight + 1)):
        key = "base_model.model.model.embed_tokens.base_layer.weight"
        save_file({**held, key: along}, source / WEIGHTS)
        out = tmp_path / str(at_)
        with pytest.raises(Unsupported, match=f"saved along .*{name}.*--base"):
            at.convert(source, to="plain", out=out)
        if at_:
            with pytest.raises(Unsupported, match="saved along"):
                at.convert(source, to="plain", out=out, base=tmp_path / "base")
        report = at.convert(
            source, to="plain", out=out, base=tmp_path / "base", drop_extras=bool(at_)
        )
        assert name in report.findings[-1].text
        assert load_file(out / WEIGHTS).keys() == held.keys()


def test_dry_run_and_receipt(tmp_path: Path) -> None:
    source = made(llama(), tmp_path / "in", target_modules=QV, alpha_pattern={"v_proj": 7})
    report = at.convert(source, to="plain", out=tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    again = at.convert(source, to="plain", out=tmp_path / "out")
    assert {**report.facts, "dry_run": False} == again.facts
    assert len(report.facts["folded"]) == 2
    receipt = (tmp_path / "out" / RECEIPT).read_text()
    assert str(tmp_path) not in receipt
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["README.md", CONFIG, WEIGHTS, RECEIPT]
    )


OTHERS: dict[str, Any] = {
    "loha": LoHaConfig(r=3, alpha=5, target_modules=QV),
    "lokr": LoKrConfig(r=4, alpha=6, decompose_both=True, target_modules=QV),
    "bdlora": LoraConfig(
        r=4, lora_alpha=6, target_modules=QV,
        use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"],
                                nblocks=2)),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_other_methods_become_the_same_lora(case: str, tmp_path: Path) -> None:
    with quiet():
        model = get_peft_model(llama()(), OTHERS[case])
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        model.save_pretrained(tmp_path / "in")
    report = at.convert(tmp_path / "in", to="plain", out=tmp_path / "out")
    assert "CNV013" in [finding.code for finding in report.findings]
    with torch.no_grad():
        expected = model.double()(torch.tensor(INPUTS["input_ids"])).logits
    found = together(llama(), [(tmp_path / "out", 1.0)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
