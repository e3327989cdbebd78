"""Fused-expert adapters of several PEFT releases: whose parameter each tensor is, and how it lies.

The oracle is what the release that wrote the adapter merged, in float64 (tests/fixtures/experts).
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adaptertools as at
from adaptertools import peft_keys
from adaptertools.adapter import Adapter, Site
from adaptertools.errors import Unsupported
from adaptertools.formats import peft
from adaptertools.methods import lora
from adaptertools.tensorfile import TensorSpec
from adaptertools.verbs import _experts
from tests.fixtures.experts.cases import config_of

HERE = Path(__file__).parent.parent / "fixtures/experts"
FOLDERS = sorted(str(p.parent.relative_to(HERE)) for p in HERE.glob("*/*/adapter_config.json"))
LAYER = "model.layers.0.mlp"
ORDER = {
    "qwen3_moe": {f"{LAYER}.experts": ("gate_up_proj", "down_proj"), f"{LAYER}.gate": ("weight",)},
    "gpt_oss": {
        f"{LAYER}.experts": ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"),
        f"{LAYER}.router": ("weight", "bias"),
    },
}


class Known:
    """The shapes that a case's config makes, without transformers."""

    def __init__(self, family: str, case: str) -> None:
        config = config_of(family, case)
        hidden = config["hidden_size"]
        inner = config.get("moe_intermediate_size") or config["intermediate_size"]
        up, down = (3, 2 * inner, hidden), (3, hidden, inner)
        self.family = family
        self.in_out = family == "gpt_oss"
        if self.in_out:
            up, down = (3, hidden, 2 * inner), (3, inner, hidden)
        self.shapes = {
            "gate_up_proj": up, "down_proj": down, "weight": (3, hidden), "bias": (3,),
            "gate_up_proj_bias": (3, 2 * inner), "down_proj_bias": (3, hidden),
        }  # fmt: skip

    def parameters(self, module: str) -> tuple[str, ...]:
        return ORDER[self.family].get(module, ("weight",))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name.rpartition(".")[2]]

    def is_transposed(self, module: str) -> bool:
        return self.in_out and module.endswith("experts")


def changes(adapter: Adapter) -> dict[str, Any]:
    """Give what a resolved adapter adds to each weight, in float64."""
    found = {}
    for entry in adapter.entries:
        shape = entry.fused.shape if entry.fused else (8, 8)
        weight = TensorSpec("w", "F64", shape, "", 0, 0)
        site = Site(
            entry=entry, config=adapter.config, weight=weight, bias=None, transposed=False,
            attention=False,
        )  # fmt: skip
        (update,) = lora.updates(site)
        tile = np.zeros((int(np.prod(shape[:-1])), shape[-1]))
        update.open(SimpleNamespace(dtype="float64", shape=tile.shape)).step(tile, None, 0)
        name = entry.fused.parameter if entry.fused else f"{entry.target}.weight"
        found[name] = tile.reshape(shape)
    return found


def opened(folder: Path | str) -> Adapter:
    return peft.read(HERE / folder, "a/b")


def changed(tmp_path: Path, folder: str, **config: Any) -> Adapter:
    """Give an adapter with other values in its config."""
    out = tmp_path / "adapter"
    shutil.copytree(HERE / folder, out, dirs_exist_ok=True)
    said = json.loads((out / "adapter_config.json").read_text()) | config
    (out / "adapter_config.json").write_text(json.dumps(said))
    return peft.read(out, "a/b")


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_each_release_wrote_changes_what_that_release_changed(folder: str) -> None:
    release, _, name = folder.partition("/")
    family, _, case = name.rpartition("-")
    adapter, findings = _experts.resolve(opened(folder), lambda: Known(family, case))
    expected = load_file(HERE / release / "expected.safetensors")
    expected = {k.split("/")[1]: v for k, v in expected.items() if k.startswith(f"{name}/")}
    made = changes(adapter)
    assert made.keys() == expected.keys()
    for parameter, values in expected.items():
        np.testing.assert_allclose(
            made[parameter], values, rtol=1e-13, atol=1e-15, err_msg=parameter
        )
    unsure = case == "only" and family == "gpt_oss" and release != "0.18.1"
    assert [f.code for f in findings] == ["MRG051"] * unsure


def grouped(tmp_path: Path, folder: str, **config: Any) -> Adapter:
    """Give an adapter as Unsloth packed it before 2026.9.6: column e·r + j for j·E + e."""
    changed(tmp_path, folder, **config)
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    for name, values in tensors.items():
        if "experts" in name and "lora_B" in name:
            parts = values.reshape(len(values), -1, 3).swapaxes(1, 2)
            tensors[name] = np.ascontiguousarray(parts).reshape(values.shape)
    save_file(tensors, path)
    return peft.read(tmp_path / "adapter", "a/b")


SQUARE = "0.21.2/qwen3_moe-square"
GROUPED = {
    "option": ({}, "expert-major"),
    "config": ({"lora_B_layout": "grouped_by_expert"}, None),
    "auto_mapping": ({"auto_mapping": {"lora_B_layout": "grouped_by_expert"}}, None),
    "each": (
        {
            "lora_B_layout": "rank_major",
            "unsloth_fused_expert_lora": {
                "parameters": {
                    "gate_up_proj": {"lora_B_layout": "grouped_by_expert", "num_experts": 3},
                    "down_proj": {"lora_B_layout": "grouped_by_expert", "num_experts": 3},
                },
            },
        },
        None,
    ),
}


@pytest.mark.parametrize("said", GROUPED)
def test_experts_packed_one_after_the_other_are_read_so(said: str, tmp_path: Path) -> None:
    config, packing = GROUPED[said]
    known = Known("qwen3_moe", "square")
    expected = changes(_experts.resolve(opened(SQUARE), lambda: known)[0])
    adapter = grouped(tmp_path, SQUARE, **config)
    lora.check(adapter.config)
    resolved, findings = _experts.resolve(adapter, lambda: known, packing)
    assert not findings
    for parameter, values in changes(resolved).items():
        np.testing.assert_allclose(values, expected[parameter], rtol=1e-13, atol=1e-15)
    apart = changes(_experts.resolve(grouped(tmp_path, SQUARE), lambda: known)[0])
    assert not all(np.allclose(apart[p], values) for p, values in expected.items())


def test_an_unsloth_file_that_does_not_say_is_doubted_once(tmp_path: Path) -> None:
    adapter = changed(tmp_path, SQUARE, auto_mapping={"unsloth_fixed": True})
    known = Known("qwen3_moe", "square")
    resolved, (doubt,) = _experts.resolve(adapter, lambda: known)
    assert (doubt.code, doubt.level) == ("MRG051", "warning")
    assert "--expert-packing expert-major" in doubt.text
    assert all(e.fused and e.fused.rank_major for e in resolved.entries)
    assert not _experts.resolve(adapter, lambda: known, "peft")[1]


def test_an_option_against_the_file_wins_and_is_noted(tmp_path: Path) -> None:
    adapter = changed(tmp_path, SQUARE, lora_B_layout="rank_major")
    known = Known("qwen3_moe", "square")
    resolved, (doubt,) = _experts.resolve(adapter, lambda: known, "expert-major")
    assert "otherwise than --expert-packing expert-major" in doubt.text
    assert not any(e.fused and e.fused.rank_major for e in resolved.entries)


def swapped(adapter: Adapter) -> set[bool]:
    return {e.fused.turned for e in adapter.entries if e.fused}


ONLY, VERSIONS = "0.21.2/{}-only", {
    "0.17.0": (True, True), "0.18.0": (True, True), "0.19.0": (True, False),
    "0.19.1": (False, True), "0.20.0": (False, True), "0.22.0": (False, True),
    "1.0.0": (False, True), "0.20.1.dev0@UNKNOWN": (False, True), "0.17.1.dev0": (True, True),
    None: (True, True), "0.18.1.dev0@abc": (True, None), "0.19.1.dev0": (None, None),
    "0.19.0.rc1": (None, None), "newest": (None, None), "0.19": (None, None), 19: (None, None),
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize("at", [0, 1], ids=["out_in", "in_out"])
def test_square_parameters_lie_as_the_release_laid_them(
    version: Any, at: int, tmp_path: Path
) -> None:
    family, turned = ("qwen3_moe", "gpt_oss")[at], VERSIONS[version][at]
    adapter = changed(tmp_path, ONLY.format(family), peft_version=version)
    if turned is None:
        with pytest.raises(Unsupported, match="Set peft_version in"):
            _experts.resolve(adapter, lambda: Known(family, "only"))
    else:
        resolved, findings = _experts.resolve(adapter, lambda: Known(family, "only"))
        assert swapped(resolved) == {turned}
        assert len(findings) == (version is None and not at) + (version not in OLD and at)


OLD = ("0.17.0", "0.18.0", "0.17.1.dev0", None)


@pytest.mark.parametrize("release", ["0.18.1", "0.21.2"])
@pytest.mark.parametrize("version", ["0.18.1", "0.21.2", "newest"])
def test_a_parameter_that_is_not_square_speaks_for_one_that_is(
    release: str, version: str, tmp_path: Path
) -> None:
    adapter = changed(tmp_path, f"{release}/qwen3_moe-square", peft_version=version)
    resolved, findings = _experts.resolve(adapter, lambda: Known("qwen3_moe", "square"))
    assert swapped(resolved) == {release == "0.18.1"}
    assert not findings


def test_inspect_says_no_rank_that_depends_on_the_parameter() -> None:
    unknown, known = (at.inspect(HERE / f"0.21.2/qwen3_moe-{case}") for case in ("square", "wide"))
    assert [kind.rank for kind in unknown.kinds] == [()]
    assert [kind.rank for kind in known.kinds] == [(2,)]


def test_levels_are_the_base_layers_before_the_role() -> None:
    name = "base_model.model.h.base_layer.base_layer.lora_A.weight"
    assert peft_keys.parse(name, "lora_", Counter())[2:] == (2, "", "", 2)
    name = "base_model.model.a.base_layer.out_proj.lora_A.weight"
    assert peft_keys.parse(name, "lora_", Counter())[2:] == (1, "", "", 0)
