"""Stacks of fused-expert adapters, of several PEFT releases, held against PEFT.

The oracle: what each release merged of its own adapter in float64 (tests/fixtures/experts), and
what the installed PEFT merges of the stack.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adaptertools as at
from adaptertools.errors import Mismatch, Unsupported
from tests.cases_recipe import quiet
from tests.fixtures.experts.cases import config_of, made
from tests.stacking import made as plain_adapter
from tests.verbs.test_experts import HERE, SQUARE, changed
from tests.verbs.test_merge_experts import expected

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
peft = pytest.importorskip("peft", minversion="0.21")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

Deltas = dict[str, Any]
WIDE = "0.21.2/qwen3_moe-wide"


def base_of(name: str, folder: Path, apart: bool = False) -> Path:
    """Save a tiny model of a case."""
    torch.manual_seed(1)
    with quiet():
        made(config_of(*name.split("-"))).save_pretrained(folder, save_original_format=apart)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Save each model once."""
    room, found = tmp_path_factory.mktemp("bases"), {}

    def get(name: str, apart: bool = False) -> Path:
        if (name, apart) not in found:
            found[name, apart] = base_of(name, room / f"{name}-{apart}", apart)
        return found[name, apart]

    return get


def merged(base: Path, adapter: Path) -> Deltas:
    """Give what PEFT adds to each parameter, in float64."""
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        wrapped = peft.PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
        after = dict(wrapped.merge_and_unload().named_parameters())
    assert after.keys() == before.keys()
    every = {n: (p.detach() - before[n]).numpy() for n, p in after.items()}
    return {n: values for n, values in every.items() if values.any()}


def check(found: Deltas, *parts: tuple[float, Deltas]) -> None:
    names = {n for _, deltas in parts for n in deltas}
    assert found.keys() == names
    for name in names:
        wanted = sum(weight * deltas[name] for weight, deltas in parts if name in deltas)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-12, atol=1e-13, err_msg=name)


def random(folder: str, out: Path, seed: int = 5) -> Path:
    """Give a fixture other values in the same shapes."""
    shutil.copytree(HERE / folder, out)
    dice, path = np.random.default_rng(seed), out / "adapter_model.safetensors"
    tensors = {n: dice.normal(size=t.shape).astype("float32") for n, t in load_file(path).items()}
    for name, values in tensors.items():
        if "experts" in name and "lora_B" in name:
            values[:, 1::3] = 0  # an expert that was never trained
    save_file(tensors, path)
    return out


NAMES = [f"{family}-{case}" for family in ("qwen3_moe", "gpt_oss")
         for case in ("wide", "square", "only", "mixed")]  # fmt: skip


@pytest.mark.parametrize("how", ["sum", "cat"])
@pytest.mark.parametrize("name", NAMES)
def test_a_stack_of_releases_is_the_sum_of_what_they_merge(
    name: str, how: str, bases: Any, tmp_path: Path
) -> None:
    releases = ["0.18.1", "0.19.0", "0.21.2"]
    folders = [f for r in releases if (f := HERE / r / name).is_dir()]
    assert len(folders) > 1
    weights, base = [2.0, -0.5, 0.25][: len(folders)], bases(name)
    report = at.stack(
        folders, out=tmp_path / "out", weights=weights, how=how, base=base, dtype="float64",
        verify=True,
    )  # fmt: skip
    assert report.facts["verified"]["difference"] < 1e-12
    parts = list(zip(weights, map(expected, folders), strict=True))
    check(merged(base, tmp_path / "out"), *parts)


@pytest.mark.parametrize("name", ["qwen3_moe-wide", "gpt_oss-wide", "gpt_oss-only"])
def test_adapters_of_one_layout_need_no_base(name: str, bases: Any, tmp_path: Path) -> None:
    one, two = HERE / "0.21.2" / name, random(f"0.21.2/{name}", tmp_path / "two")
    at.stack([one, two], out=tmp_path / "out", weights=[1.5, -1.0], dtype="float64", verify=True)
    parts = (1.5, expected(one)), (-1.0, merged(bases(name), two))
    check(merged(bases(name), tmp_path / "out"), *parts)
    said = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert said["peft_version"] == "0.21.2"


def test_other_parameters_and_modules_come_together(bases: Any, tmp_path: Path) -> None:
    """The union nests otherwise than its parts, which have one, two and no parameters."""
    base = bases("qwen3_moe-wide")
    mixed, wide = HERE / "0.18.1/qwen3_moe-mixed", HERE / WIDE
    plain = plain_adapter(
        lambda: transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "plain",
        target_modules=["q_proj", "o_proj"], use_rslora=True,
    )  # fmt: skip
    weights = [0.5, 2.0, -1.0]
    at.stack(
        [mixed, wide, plain], out=tmp_path / "out", weights=weights, base=base, dtype="float64",
        verify=True, base_check="off",
    )  # fmt: skip
    parts = zip(weights, (expected(mixed), expected(wide), merged(base, plain)), strict=True)
    check(merged(base, tmp_path / "out"), *parts)
    at.stack([wide, plain], out=tmp_path / "bare", dtype="float64", verify=True, base_check="off")
    check(merged(base, tmp_path / "bare"), (1.0, expected(wide)), (1.0, merged(base, plain)))


def test_weights_of_single_experts_and_of_parameters(bases: Any, tmp_path: Path) -> None:
    base, down = bases("qwen3_moe-wide"), "model.layers.0.mlp.experts.down_proj"
    at.stack(
        HERE / WIDE, out=tmp_path / "out", base=base, dtype="float64", verify=True,
        weight=["*.gate_up_proj=0", "*.experts.{0-1}.down_proj=0"],
    )  # fmt: skip
    found, whole = merged(base, tmp_path / "out"), expected(HERE / WIDE)
    assert [*found] == [down]
    np.testing.assert_allclose(found[down][2], whole[down][2], rtol=1e-12)
    assert not found[down][:2].any()
    with pytest.raises(Unsupported, match="which parameter that is only the base tells"):
        at.stack(HERE / WIDE, out=tmp_path / "no", weight=["*.experts.base_layer.*=0"])


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "fused"])
def test_experts_one_by_one_join_fused_ones(apart: bool, bases: Any, tmp_path: Path) -> None:
    base, one, two = bases("qwen3_moe-wide", apart), HERE / WIDE, HERE / "0.18.1/qwen3_moe-wide"
    at.convert(one, to="peft", out=tmp_path / "single", base=base, experts="split")
    at.stack(
        [tmp_path / "single", two], out=tmp_path / "out", weights=[1.0, 3.0], base=base,
        dtype="float64", verify=True,
    )  # fmt: skip
    parts = (1.0, expected(one)), (3.0, expected(two))
    check(merged(bases("qwen3_moe-wide"), tmp_path / "out"), *parts)
    with pytest.raises(Unsupported, match=r"experts one by one .*Pass the model as --base"):
        at.stack([tmp_path / "single", two], out=tmp_path / "no")
    with pytest.raises(Unsupported, match=r"experts one by one .*Pass the model as --base"):
        at.compare([tmp_path / "single", two])


@pytest.mark.parametrize("rank", ["energy:0.9", "budget:2", 1, "max"])
def test_a_cut_rank_is_one_for_a_parameter(rank: Any, bases: Any, tmp_path: Path) -> None:
    base, folders = bases("qwen3_moe-square"), [HERE / "0.18.1/qwen3_moe-square", HERE / SQUARE]
    report = at.stack(folders, out=tmp_path / "out", rank=rank, base=base, dtype="float64")
    found = merged(base, tmp_path / "out")
    whole = {n: a + b for (n, a), b in zip(expected(folders[0]).items(),
                                           expected(folders[1]).values(), strict=True)}  # fmt: skip
    ranks = {m["target"]: m["rank"] for m in report.facts["modules"]}
    for name, values in whole.items():
        module, _, parameter = name.rpartition(".")
        own = {ranks[f"{module}.{e}.{parameter}"] for e in range(3)}
        assert len(own) == 1
        for expert, delta in enumerate(values):
            u, s, v = np.linalg.svd(delta)
            best = (u[:, : (r := min(own))] * s[:r]) @ v[:r]
            np.testing.assert_allclose(found[name][expert], best, atol=1e-11)


def test_what_only_a_base_tells_is_refused_in_a_sentence(tmp_path: Path) -> None:
    def refused(match: str, *folders: Path, kind: Any = Unsupported) -> None:
        for verb in (lambda: at.stack(folders, out=tmp_path / "o"), lambda: at.compare(folders)):
            with pytest.raises(kind, match=match):
                verb()
        assert not (tmp_path / "o").exists()

    needs = "Pass the model as --base"
    refused(f"holds model.*layout. {needs}", HERE / WIDE, HERE / "0.18.1/qwen3_moe-wide")
    refused(f"other ones: .* {needs}", HERE / "0.21.2/gpt_oss-wide", HERE / "0.21.2/gpt_oss-only")
    refused(f"of another PEFT.* {needs}", HERE / "0.21.2/qwen3_moe-only",
            HERE / "0.19.0/qwen3_moe-only")  # fmt: skip
    refused(f"differ in rank or alpha. {needs}", HERE / SQUARE, random(SQUARE, tmp_path / "b"))
    bare = changed(tmp_path, WIDE, target_parameters=["gate_up_proj", "down_proj"]).folder
    refused(f"could be of any module. {needs}", Path(bare), HERE / WIDE)
    more = changed(tmp_path, WIDE, r=1).folder
    refused("They are not of one base", Path(more), HERE / WIDE, kind=Mismatch)


def test_what_peft_has_not_beside_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no tool has numbers for fused experts"):
        at.stack(HERE / WIDE, out=tmp_path / "out", emulate="peft-linear")
    assert not [*tmp_path.iterdir()]
