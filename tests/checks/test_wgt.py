"""The finer points of the WGT checks: what they say, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

import adaptertools as at
from adaptertools.checks.wgt_targets import _left_out, _named
from adaptertools.report import Finding
from tests.checks import tiny
from tests.checks.make_wgt import deeper, without

Arrays = tiny.Arrays
Q, V = "self_attn.q_proj", "self_attn.v_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "adapter")


def found(folder: Path, code: str, **how: Any) -> list[Finding]:
    """Give what one check finds."""
    report = at.validate(folder, select=[code], **how)
    assert report.facts["checks_run"] == [code], report.skipped
    return list(report.findings)


def renamed(old: str, new: str) -> Callable[[Arrays], Arrays]:
    return lambda held: {n.replace(old, new): t for n, t in held.items()}


@pytest.mark.parametrize(
    ("change", "words", "level"),
    [
        (renamed("base_model.model.model", "model"), "no base_model.model. prefix", "error"),
        (renamed("base_model.model.", "base_model.model." * 2), "twice", "error"),
        (renamed("base_model.model.", "module.base_model.model."), "wrapper: module", "warning"),
        (renamed(".q_proj.", "._orig_mod.q_proj."), "_orig_mod", "warning"),
        (renamed("lora_A.weight", "lora_A.default.weight"), "'default'", "warning"),
        (renamed("lora_A.weight", "lora_down.weight"), "kohya's", "error"),
        (renamed(".lora_A.weight", ".lora_a"), "MLX's", "error"),
        (renamed("base_model.model.model", "unet"), "diffusers'", "error"),
    ],
)
def test_spellings(change: Any, words: str, level: str, adapter: Path) -> None:
    tiny.set_tensors(adapter, change)
    (first, *_) = found(adapter, "WGT003")
    assert words in first.text
    assert first.level == level


def test_gpt2_without_a_prefix_is_not_taken_for_diffusers(adapter: Path) -> None:
    tiny.set_tensors(adapter, renamed("base_model.model.model.layers", "transformer.h"))
    (only,) = found(adapter, "WGT003")
    assert "no base_model.model. prefix" in only.text


def test_what_vera_shares_has_no_prefix(adapter: Path) -> None:
    tiny.set_config(adapter, peft_type="VERA")
    tiny.set_tensors(adapter, lambda _: {"base_model.vera_A": tiny.noise(2, 2)})
    assert found(adapter, "WGT003") == []


def test_the_names_of_peft_loha_are_peft_s(adapter: Path) -> None:
    tiny.set_config(adapter, peft_type="LOHA")
    tiny.set_tensors(adapter, renamed("lora_A.weight", "hada_w1_a"))
    assert found(adapter, "WGT003") == []


@pytest.mark.parametrize(
    ("pattern", "faults"),
    [
        ({}, 4),
        ({"q_proj": 2}, 2),
        ({"layers.0.self_attn.q_proj": 2}, 3),
        ({".*_proj": 2}, 0),
        ({"proj": 2}, 4),  # it must be the whole end of a name
        ({"q_proj": 8, "v_proj|q_proj": 2}, 2),  # the first that fits decides
    ],
)
def test_rank_patterns(pattern: dict[str, int], faults: int, adapter: Path) -> None:
    tiny.set_config(adapter, r=4, rank_pattern=pattern)
    assert len(found(adapter, "WGT005")) == faults


def experts(count: int, rank: int) -> Arrays:
    """Make the factors of fused experts, two parameters nested."""
    stem = f"{tiny.START}0.mlp.experts"
    return {
        f"{stem}{nested}.lora_{x}.weight": tiny.noise(*shape)
        for nested in ("", ".base_layer")
        for x, shape in (("A", (rank * count, 8)), ("B", (16, rank * count)))
    }


def test_fused_experts_hold_a_rank_for_each(adapter: Path) -> None:
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    tiny.set_config(adapter, target_parameters=parameters, target_modules=[])
    tiny.set_tensors(adapter, lambda _: experts(4, 2))
    assert found(adapter, "WGT005") == []
    assert found(adapter, "WGT004") == []
    tiny.set_tensors(adapter, lambda _: experts(3, 3))
    assert len(found(adapter, "WGT005")) == 2
    tiny.set_tensors(adapter, lambda held: without(held, "base_layer.lora_B"))
    assert len(found(adapter, "WGT004")) == 1


NAMES = [
    f"model.layers.{i}.{rest}"
    for i in range(3)
    for rest in ("self_attn.q_proj", "self_attn.v_proj", "mlp.experts.1.w1", "mlp.down_proj")
] + ["lm_head", "encoder.block.1.layer.0.q", "layers.0.q_proj", "score.dense"]


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["self_attn.q_proj", "lm_head"]},
        {"target_modules": ["proj", "head"]},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": r"model\.layers\.[01]\..*"},
        {"target_modules": "q_proj"},
        {"target_modules": ["q_proj", "w1"], "layers_to_transform": [0, 2]},
        {"target_modules": ["q_proj", "w1", "q"], "layers_to_transform": 1},
        {"target_modules": ["q_proj", "w1"], "layers_to_transform": []},
        {"target_modules": ["q_proj", "w1", "q"], "layers_to_transform": [1],
         "layers_pattern": "layers"},
        {"target_modules": ["w1", "q"], "layers_to_transform": [1],
         "layers_pattern": ["block", "experts"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.0\..*"},
        {"target_modules": ["dense", "q_proj"], "modules_to_save": ["score"]},
    ],
    ids=str,
)  # fmt: skip
def test_targets_are_what_peft_targets(fields: dict[str, Any]) -> None:
    peft = {name: check_target_module_exists(LoraConfig(**fields), name) for name in NAMES}
    expected = {name for name, hit in peft.items() if hit and "Excluded" not in type(hit).__name__}
    named = _named(fields["target_modules"], NAMES)
    assert named is not None
    excluded = _named(fields.get("exclude_modules"), NAMES) or set()
    saved = fields.get("modules_to_save", [])
    ours = {name for name in NAMES if not _left_out(name, fields, named, excluded, saved)}
    assert ours == expected


@pytest.mark.parametrize("targets", ["(.*)*q_projX", "(", "all-linear", None, 7, {}])
def test_targets_that_cannot_be_resolved_are_left_to_others(targets: Any, adapter: Path) -> None:
    tiny.set_config(adapter, target_modules=targets)
    assert found(adapter, "WGT006") == []


def test_every_third_layer_is_of_another_kind(adapter: Path) -> None:
    def hybrid(held: Arrays) -> Arrays:
        return {
            name.replace("layers.0.", f"layers.{i}."): tensor
            for i in range(12)
            for name, tensor in held.items()
            if "layers.0." in name and not (V in name and i % 4 == 3)
        }

    tiny.set_tensors(adapter, hybrid)
    assert found(adapter, "WGT008") == []


def test_two_towers_are_counted_apart(adapter: Path) -> None:
    def towers(held: Arrays) -> Arrays:
        vision = renamed("model.model.layers", "model.vision_model.encoder.layers")(held)
        return {**deeper(held), **vision}

    tiny.set_tensors(adapter, towers)
    assert found(adapter, "WGT008") == []


def test_a_layer_without_any_tensor(adapter: Path) -> None:
    tiny.set_tensors(adapter, lambda held: without(deeper(held), "layers.3."))
    (only,) = found(adapter, "WGT008")
    assert "No tensor of layers 3" in only.text


def test_dora_of_which_one_magnitude_is_lost(adapter: Path) -> None:
    from tests.checks.make_wgt import magnitudes

    tiny.set_config(adapter, use_dora=True)
    tiny.set_tensors(adapter, lambda held: without(magnitudes(held), f"1.{V}.lora_mag"))
    (only,) = found(adapter, "WGT009")
    assert "1 of 4 modules have no lora_magnitude_vector" in only.text
    tiny.set_config(adapter, use_dora=False)
    (only,) = found(adapter, "WGT009")
    assert "3 modules have lora_magnitude_vector, and use_dora is not set" in only.text


HEAD = "base_model.model.score.weight"


@pytest.mark.parametrize(
    ("listed", "held", "task", "level", "words"),
    [
        (["classifier", "score"], [HEAD], "SEQ_CLS", None, ""),
        (["classifier", "classifier", "score"], [HEAD], "SEQ_CLS", None, ""),
        (["classifier", "score"], [], "SEQ_CLS", "error", "classifier, score"),
        (["classifier", "score", "lm_head"], [HEAD], "SEQ_CLS", "error", "lm_head"),
        (None, [HEAD], "SEQ_CLS", "warning", "score is saved whole"),
        (["classifier"], ["base_model.model.classifier.dense.weight"], "SEQ_CLS", None, ""),
    ],
)
def test_saved_modules(
    listed: list[str] | None, held: list[str], task: str, level: str | None, words: str,
    adapter: Path,
) -> None:  # fmt: skip
    tiny.set_config(adapter, modules_to_save=listed, task_type=task)
    more = {name: tiny.noise(2, 8) for name in held}
    tiny.set_tensors(adapter, lambda tensors: {**tensors, **more})
    every = found(adapter, "WGT010")
    assert [f.level for f in every] == ([level] if level else [])
    assert all(words in f.text for f in every)


def test_a_listed_module_that_the_base_does_not_have_is_no_fault(adapter: Path) -> None:
    tiny.set_config(adapter, modules_to_save=["score", "wte"])
    tiny.set_tensors(adapter, lambda held: {**held, HEAD: tiny.noise(2, 8)})
    assert len(found(adapter, "WGT010")) == 1
    assert found(adapter, "WGT010", base=tiny.base(adapter / "base")) == []


def test_single_numbers_are_no_dtypes_to_worry_about(adapter: Path) -> None:
    alpha = {"base_model.model.a.alpha": np.array(8, "i8")}
    tiny.set_tensors(adapter, lambda held: {**held, **alpha})
    assert found(adapter, "WGT012") == []


def test_wide_tensors_for_a_narrow_base(adapter: Path) -> None:
    base = tiny.base(adapter / "base", dtype="bfloat16")
    assert found(adapter, "WGT012") == []
    (only,) = found(adapter, "WGT012", base=base)
    assert only.level == "note"


def set_b(value: float, *words: str) -> Callable[[Arrays], Arrays]:
    def change(held: Arrays) -> Arrays:
        return {n: np.full_like(t, value) if all(w in n for w in words) else t
                for n, t in held.items()}  # fmt: skip

    return change


@pytest.mark.parametrize(
    ("init", "words", "level"),
    [
        (True, ["lora_B"], "error"),
        ("gaussian", ["lora_B"], "error"),
        ("pissa", ["lora_B"], "error"),  # however it began: it changes nothing now
        (True, ["lora_B", "0."], "warning"),
        ("pissa", ["lora_B", "0."], "note"),
        (True, ["lora_A"], None),
    ],
)
def test_untrained(init: Any, words: list[str], level: str | None, adapter: Path) -> None:
    tiny.set_config(adapter, init_lora_weights=init)
    tiny.set_tensors(adapter, set_b(0, *words))
    assert [f.level for f in found(adapter, "WGT014", deep=True)] == ([level] if level else [])


OTHERS: Mapping[str, tuple[str, str, float]] = {  # what is still at its start, and what is not
    "IA3": ("ia3_l", "", 1), "VERA": ("vera_lambda_b", "vera_lambda_d", 0),
    "LOHA": ("hada_w2_b", "hada_w2_a", 0), "LOKR": ("lokr_w1", "lokr_w2", 0),
    "ADALORA": ("lora_E", "lora_B", 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_untrained_by_other_methods(kind: str, adapter: Path) -> None:
    moved, other, start = OTHERS[kind]
    stem = f"{tiny.START}0.{Q}"
    tiny.set_config(adapter, peft_type=kind)

    def made(value: float) -> Arrays:
        random = {f"{stem}.{other}": tiny.noise(2, 2)} if other else {}
        return {f"{stem}.{moved}": np.full((2, 2), value, "f4"), **random}

    tiny.set_tensors(adapter, lambda _: made(start))
    assert [f.level for f in found(adapter, "WGT014", deep=True)] == ["error"]
    tiny.set_tensors(adapter, lambda _: made(0.5))
    assert found(adapter, "WGT014", deep=True) == []


def test_untrained_factors_are_those_that_peft_makes() -> None:
    """The table of what starts at zero, held against PEFT's own modules."""
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from adaptertools.checks.wgt_data import _AT_START

    for kind, (roles, start) in _AT_START.items():
        model = torch.nn.Sequential(torch.nn.Linear(8, 8))
        fields: dict[str, Any] = {"target_modules": ["0"]}
        if kind == "IA3":
            fields["feedforward_modules"] = []
        if kind == "ADALORA":
            fields["total_step"] = 10
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](**fields)
        held = dict(get_peft_model(model, config).named_parameters())
        # PEFT keeps the adapter's name in the names of live modules.
        ours = {n: p for n, p in held.items() if any(r.rstrip(".") in n for r in roles)}
        assert any((p == start).all() for p in ours.values()), kind


def test_explosions_are_of_the_scaled_update(adapter: Path) -> None:
    tiny.set_tensors(adapter, deeper)
    assert found(adapter, "WGT015", deep=True) == []
    tiny.set_config(adapter, alpha_pattern={"layers.0.self_attn.q_proj": 400})
    (only,) = found(adapter, "WGT015", deep=True)
    assert "layers.0.self_attn.q_proj" in only.text


def test_an_update_beyond_all_bounds(adapter: Path) -> None:
    tiny.set_tensors(adapter, set_b(1e5, "lora_B"))
    assert len(found(adapter, "WGT015", deep=True)) == 4


def test_data_are_not_read_without_deep(adapter: Path) -> None:
    tiny.set_tensors(adapter, set_b(float("nan"), "lora_B"))
    report = at.validate(adapter, select=["WGT013", "WGT014", "WGT015", "WGT016"])
    assert report.facts["checks_run"] == []
    assert len(report.skipped) == 4
    assert found(adapter, "WGT013", deep=True) != []


@pytest.mark.parametrize(
    ("kind", "fields", "shape", "faults"),
    [
        ("PROMPT_TUNING", {}, (3, 8), 0),
        ("PROMPT_TUNING", {"num_transformer_submodules": 2}, (6, 8), 0),
        ("PROMPT_TUNING", {}, (3, 9), 1),
        ("PREFIX_TUNING", {"num_layers": 2}, (3, 32), 0),
        ("PREFIX_TUNING", {"num_layers": 2}, (3, 8), 1),
        ("PREFIX_TUNING", {"num_layers": None}, (3, 8), 0),  # nobody can say
    ],
)
def test_prompts(
    kind: str, fields: dict[str, Any], shape: tuple[int, int], faults: int, adapter: Path
) -> None:
    tiny.set_config(adapter, peft_type=kind, num_virtual_tokens=3, token_dim=8, **fields)
    tiny.set_tensors(adapter, lambda _: {"prompt_embeddings": tiny.noise(*shape)})
    assert len(found(adapter, "WGT019")) == faults


def test_a_pickle_that_is_refused_is_not_called_cut_short(adapter: Path) -> None:
    (adapter / tiny.WEIGHTS_FILE).unlink()
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x02cos\nsystem\n.")
    assert found(adapter, "WGT018") == []
    assert len(found(adapter, "WGT001")) == 1


def test_a_pickle_that_is_cut_short(adapter: Path) -> None:
    (adapter / tiny.WEIGHTS_FILE).unlink()
    path = adapter / "adapter_model.bin"
    torch.save({"a": torch.zeros(64)}, path)
    path.write_bytes(path.read_bytes()[:600])
    assert len(found(adapter, "WGT018")) == 1
    path.write_bytes(b"")
    (only,) = found(adapter, "WGT018")
    assert only.text == "It is empty."
