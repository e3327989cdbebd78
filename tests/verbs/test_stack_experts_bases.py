"""Stacks of fused-expert adapters and what is known of their base: packed, unknown, Unsloth's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from adaptertools.errors import Unsupported
from adaptertools.verbs import _sources_base
from tests.cases_recipe import quiet
from tests.verbs import test_merge_mxfp4, test_stack_experts
from tests.verbs.test_experts import HERE, SQUARE, grouped
from tests.verbs.test_merge_experts import expected
from tests.verbs.test_stack_experts import Deltas, check, merged

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

packed, bases = test_merge_mxfp4.made, test_stack_experts.bases  # fixtures


def test_unsloths_packing_is_asked_for_and_gone_from_the_stack(bases: Any, tmp_path: Path) -> None:
    base = bases("qwen3_moe-square")
    grouped(tmp_path, SQUARE, auto_mapping={"unsloth_fixed": True, "kept": 1})
    doubted = at.stack(tmp_path / "adapter", out=tmp_path / "no", base=base, dry_run=True)
    assert "MRG051" in [finding.code for finding in doubted.findings]
    at.stack(
        tmp_path / "adapter", out=tmp_path / "out", base=base, dtype="float64",
        expert_packing="expert-major",
    )  # fmt: skip
    check(merged(base, tmp_path / "out"), (1.0, expected(HERE / SQUARE)))
    said = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert said["auto_mapping"] == {"kept": 1}
    with pytest.raises(Unsupported, match="--expert-packing rank is unknown"):
        at.stack(tmp_path / "adapter", out=tmp_path / "x", base=base, expert_packing="rank")


def test_a_packed_base_says_whose_a_tensor_is(
    packed: tuple[Path, Deltas], tmp_path: Path
) -> None:  # fmt: skip
    folder, deltas = packed
    at.stack(
        folder / "adapter", weights=[-2.0], out=tmp_path / "out", base=folder / "base",
        dtype="float64", verify=True,
    )  # fmt: skip
    config = transformers.AutoConfig.from_pretrained(folder / "base")
    del config.quantization_config
    with quiet():
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64)
        model.save_pretrained(tmp_path / "base")
    parts = -2.0, merged(tmp_path / "base", folder / "adapter")
    assert len(parts[1]) > len(deltas)  # the experts', and attention's
    check(merged(tmp_path / "base", tmp_path / "out"), parts)


@pytest.mark.parametrize("name", ["qwen3_moe-wide", "gpt_oss-mixed"])
def test_without_transformers_the_base_is_known_by_its_family(
    name: str, bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise Unsupported("transformers is not installed.")

    monkeypatch.setattr(_sources_base, "layout", missing)
    folders = [HERE / "0.18.1" / name, HERE / "0.21.2" / name]
    asked = {"base": bases(name), "dtype": "float64", "verify": True}
    if name == "gpt_oss-mixed":  # biases of experts, which the table of families has not
        with pytest.raises(Unsupported, match=r"experts\.down_proj_bias\. Of the experts"):
            at.stack(folders, out=tmp_path / "out", **asked)
        return
    at.stack(folders, out=tmp_path / "out", **asked)
    parts = [(1.0, expected(folder)) for folder in folders]
    check(merged(bases(name), tmp_path / "out"), *parts)
    odd = shutil.copytree(bases(name), tmp_path / "odd")
    said = json.loads((odd / "config.json").read_text()) | {"model_type": "unheard_of"}
    (odd / "config.json").write_text(json.dumps(said))
    with pytest.raises(Unsupported, match="transformers is not installed"):
        at.stack(folders, out=tmp_path / "no", base=odd)
