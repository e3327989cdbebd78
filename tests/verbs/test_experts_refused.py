"""What stops a fused-expert adapter: every tensor is of a parameter of the base, or none is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported
from adaptertools.formats import peft
from adaptertools.verbs import _experts
from tests.verbs.test_experts import LAYER, SQUARE, Known, changed, changes, opened

EXPERTS = f"base_model.model.{LAYER}.experts"
KNOWN = Known("qwen3_moe", "square")


def resolved(adapter: Adapter, known: Known | None = KNOWN) -> Adapter:
    return _experts.resolve(adapter, lambda: known)[0]


CONFIGS: dict[str, tuple[dict[str, Any], type[AdapterToolsError], str]] = {
    "too few": (
        {"target_parameters": ["experts.down_proj"]}, Mismatch,
        r"2 parameters, and target_parameters names 1 .*experts\.down_proj. Which tensor is whose",
    ),
    "none there": (
        {"target_parameters": ["experts.w1"]}, Mismatch, "updates of 2 parameters, .* names 0 of",
    ),
    "no names": ({"target_parameters": [1]}, Unreadable, r"target_parameters is \[1\]; names were"),
    "rank": ({"rank_pattern": {}}, Mismatch, "3 experts of rank 3 were expected .* has 6 rows"),
    "layout": (
        {"lora_B_layout": "mixed"}, Unsupported, "lora_B_layout is mixed; .* --expert-packing peft"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_that_does_not_fit_is_refused(what: str, tmp_path: Path) -> None:
    config, error, words = CONFIGS[what]
    adapter = changed(tmp_path, SQUARE, **config)
    with pytest.raises(error, match=words):
        changes(resolved(adapter))


def test_a_layout_that_nobody_knows_gives_way_to_the_option(tmp_path: Path) -> None:
    adapter = changed(tmp_path, SQUARE, lora_B_layout="mixed")
    made, findings = _experts.resolve(adapter, lambda: KNOWN, "peft")
    assert not findings
    assert all(entry.fused and entry.fused.rank_major for entry in made.entries)


def test_a_model_that_transformers_does_not_know_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"transformers does not know this model\. Merge"):
        resolved(opened(SQUARE), None)


def test_an_adapter_without_parameters_asks_for_no_layout(tmp_path: Path) -> None:
    def never() -> None:
        raise AssertionError

    adapter = changed(tmp_path, "0.21.2/qwen3_moe-mixed", target_parameters=None)
    assert _experts.resolve(adapter, never) == (adapter, [])


def test_another_base_is_refused_by_shape() -> None:
    for case in ("wide", "only"):
        with pytest.raises(Mismatch, match=r"the update is 16×8, the base has \[3, .*--base"):
            resolved(opened(SQUARE), Known("qwen3_moe", case))


def test_a_base_without_the_parameter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KNOWN, "shape", lambda name: ())
    with pytest.raises(Mismatch, match=r"gate_up_proj, which the base does not have\. Pass"):
        resolved(opened(SQUARE))


def test_modules_wrapped_in_two_ways_do_not_speak_for_a_square_one() -> None:
    old, new = opened("0.18.1/qwen3_moe-square"), opened(SQUARE)
    moved = [replace(e, target=e.target.replace("0", "1")) for e in old.entries]
    both = replace(new, entries=(*new.entries, *moved))
    known = Known("qwen3_moe", "square")
    known.parameters = lambda module: ("gate_up_proj", "down_proj")  # type: ignore[method-assign]
    with pytest.raises(Unsupported, match=r"down_proj is square, .* were wrapped in both ways"):
        resolved(both, known)


def edited(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Adapter:
    """Give the adapter with other tensors."""
    changed(tmp_path, SQUARE)
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return peft.read(tmp_path / "adapter", "a/b")


A, B = (f"{EXPERTS}.base_layer.lora_{x}.weight" for x in "AB")
TENSORS: dict[str, tuple[Callable[[dict[str, Any]], object], type[AdapterToolsError], str]] = {
    "half": (lambda t: t.pop(B), Unreadable, "has no lora_B. Half a pair"),
    "level": (lambda t: (t.pop(A), t.pop(B)), Mismatch, "updates of 1 parameters, .* names 2"),
    "deep": (
        lambda t: t.update({A.replace("experts", "experts.base_layer"): t[A]}), Mismatch,
        "updates of 3 parameters, .* names 2",
    ),
    "dora": (
        lambda t: t.update({f"{EXPERTS}.lora_magnitude_vector": t[A][0].copy()}), Unsupported,
        "PEFT has no lora_magnitude_vector for a parameter",
    ),
    "vector": (lambda t: t.update({A: t[A][0].copy()}), Unreadable, "a matrix of floats was"),
    "ints": (lambda t: t.update({A: t[A].astype("int32")}), Unreadable, r"I32 \[9, 8\]; a matrix"),
}  # fmt: skip


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_do_not_fit_are_refused(what: str, tmp_path: Path) -> None:
    change, error, words = TENSORS[what]
    adapter = edited(tmp_path, change)
    with pytest.raises(error, match=words):
        changes(resolved(adapter))


def test_only_listed_parameters_make_levels(tmp_path: Path) -> None:
    adapter = changed(tmp_path, SQUARE)
    assert [(e.target, e.depth, e.nested) for e in adapter.entries] == [
        (f"{LAYER}.experts", 1, False), (f"{LAYER}.experts", 0, False),
    ]  # fmt: skip
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    config["target_parameters"] = None
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(Unreadable, match=r"experts: adapted twice, once under base_layer"):
        peft.read(tmp_path / "adapter", "a/b")


def test_a_parameter_of_one_row_of_matrices_is_no_stack() -> None:
    entry = Entry(target="x", parts={}, scale=1.0, rank=1)
    with pytest.raises(Unsupported, match=r"x\.w is \[4\]: PEFT adapts matrices and stacks"):
        _experts._experts.readings(entry, "x.w", (4,))
