"""Fused-expert adapters of several PEFT releases, merged into bases of both layouts on disk.

The oracle: the model that transformers loads from the output is the base plus what the release
that wrote the adapter merged in float64, rounded once; and the files hold the same tensors.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import adaptertools as at
from adaptertools.errors import Unsupported
from tests.fixtures.experts.cases import CASES, FAMILIES, config_of, made
from tests.verbs.test_experts import HERE, SQUARE, changed, grouped

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

BASES = [f"{family}-{case}" for family in FAMILIES for case in CASES]
FOLDERS = [p.parent for p in sorted(HERE.glob("*/*/adapter_config.json"))]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """Save a tiny model for every case, one tensor for each expert and all of them in one."""
    folder, found = tmp_path_factory.mktemp("bases"), {}
    for name in BASES:
        torch.manual_seed(1)
        model = made(config_of(*name.split("-")))
        for apart in (True, False):
            path = found[name, apart] = folder / f"{name}-{apart}"
            model.save_pretrained(path, save_original_format=apart)
    return found


def parameters(folder: Path) -> dict[str, Any]:
    """Load a model as transformers does; its parameters in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: p.detach().double().numpy() for name, p in model.named_parameters()}


def check(base: Path, out: Path, change: dict[str, Any]) -> None:
    """Hold what transformers loads against the base plus a change, rounded once."""
    assert change
    before, after = parameters(base), parameters(out)
    assert before.keys() == after.keys() >= change.keys()
    for name, values in after.items():
        wanted = before[name] + change.get(name, 0.0)
        unit = np.spacing(np.abs(wanted).astype("float32")).astype("float64")
        assert (np.abs(values - wanted) <= 0.51 * unit).all(), name
    held, stored = (load_file(f / "model.safetensors") for f in (base, out))
    assert {n: (t.shape, t.dtype) for n, t in held.items()} == {
        n: (t.shape, t.dtype) for n, t in stored.items()
    }


def expected(folder: Path) -> dict[str, Any]:
    """Give what the release that wrote an adapter adds to each parameter."""
    every = load_file(folder.parent / "expected.safetensors")
    return {k.split("/")[1]: v for k, v in every.items() if k.startswith(f"{folder.name}/")}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}-{f.name}")
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "fused"])
def test_a_merge_is_the_base_plus_what_that_release_merges(
    folder: Path, apart: bool, bases: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    base = bases[folder.name, apart]
    at.merge(folder, base=base, out=tmp_path / "out", verify=True)
    check(base, tmp_path / "out", expected(folder))


def test_two_adapters_of_two_releases_are_one_sum(
    bases: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    folders = [HERE / "0.18.1/qwen3_moe-square", HERE / SQUARE]
    base = bases["qwen3_moe-square", True]
    at.merge(folders, base=base, out=tmp_path / "out", scale=[2.0, -0.5])
    first, second = map(expected, folders)
    check(base, tmp_path / "out", {n: 2.0 * first[n] - 0.5 * second[n] for n in first})


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "fused"])
def test_the_option_says_how_experts_are_packed(
    apart: bool, bases: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    grouped(tmp_path, SQUARE, auto_mapping={"unsloth_fixed": True})
    base = bases["qwen3_moe-square", apart]
    plan = at.plan(tmp_path / "adapter", base=base, out=tmp_path / "out")
    assert "MRG051" in [finding.code for finding in plan.findings]
    asked = at.merge(
        tmp_path / "adapter", base=base, out=tmp_path / "out", expert_packing="expert-major"
    )
    assert "MRG051" not in [finding.code for finding in asked.findings]
    check(base, tmp_path / "out", expected(HERE / SQUARE))


def test_what_cannot_be_merged_writes_nothing(
    bases: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    changed(tmp_path, "0.21.2/qwen3_moe-only", peft_version="0.19.1.dev0")
    base = bases["qwen3_moe-only", True]
    with pytest.raises(Unsupported, match="gate_up_proj is square"):
        at.merge(tmp_path / "adapter", base=base, out=tmp_path / "out")
    with pytest.raises(Unsupported, match="--expert-packing rank is unknown"):
        at.plan(tmp_path / "adapter", base=base, out=tmp_path / "o", expert_packing="rank")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.filterwarnings("ignore")  # of PEFT's and transformers' own making
@pytest.mark.parametrize("case", ["wide", "only"])
def test_a_newer_peft_refuses_older_files_or_turns_them_silently(
    case: str, bases: dict[tuple[str, bool], Path]
) -> None:
    """The proof of what README says of PEFT; a release that mends it makes this test fail."""
    peft = pytest.importorskip("peft", minversion="0.21")
    folder = HERE / f"0.18.1/qwen3_moe-{case}"
    base = bases[folder.name, True]
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if case == "wide":
        with pytest.raises(RuntimeError, match="size mismatch"):
            peft.PeftModel.from_pretrained(model, folder)
        return
    merged = peft.PeftModel.from_pretrained(model, folder).double().merge_and_unload()
    before, change = parameters(base), expected(folder)
    for name, wanted in change.items():
        made = merged.get_parameter(name).detach().numpy() - before[name]
        assert np.abs(made - wanted).max() > 0.1
        np.testing.assert_allclose(made, wanted.swapaxes(1, 2), atol=1e-12)
