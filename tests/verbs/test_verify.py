"""verify: a right merge passes, whatever the case; every way of being wrong is found and named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools import runner, tiles
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank, Product
from adaptertools.update.rows import Rows, Toward
from adaptertools.update.shift import Shift
from adaptertools.update.truncate import Truncate
from tests import tiny_llama as tiny
from tests.cases_recipe import Case
from tests.kit import CASES
from tests.tiny_llama import Tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)

Spoil = Callable[[Tensors, Tensors], Tensors]  # (base, merged) -> what a wrong merge would give


def places(report: at.Report) -> set[str]:
    return {finding.place for finding in report.findings if finding.level == "error"}


def overwrite(folder: Path, tensors: Tensors) -> None:
    """Put other values in the place of a merged model's, file by file."""
    for path in sorted(folder.glob("*.safetensors")):
        held = load_file(path)
        assert {n: (t.dtype, t.shape) for n, t in held.items()} == {
            n: (tensors[n].dtype, tensors[n].shape) for n in held
        }
        save_file({n: tensors[n].contiguous() for n in held}, path, {"format": "pt"})


def spoiled(folder: Path, spoil: Spoil) -> set[str]:
    """Spoil a right merge below `folder`; gives the tensors that differ from it now."""
    base, merged = tiny.read(folder / "base"), tiny.read(folder / "out")
    wrong = spoil(base, dict(merged))
    overwrite(folder / "out", wrong)
    return {n for n, tensor in merged.items() if not torch.equal(tensor, wrong[n])}


def assert_found(folder: Path, spoil: Spoil) -> None:
    """Fail unless a right merge verifies, and the spoiled one is refused by tensor."""
    assert at.verify(folder / "out").ok
    wrong = spoiled(folder, spoil)
    report = at.verify(folder / "out")
    assert wrong
    assert places(report) == wrong
    assert not report.ok
    assert report.facts["wrong"] == len(wrong)


@every_dtype
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_false_alarm(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    case.build(tmp_path, dtype)
    report = at.verify(tiny.merge_case(case, tmp_path))
    assert report.findings == ()
    assert report.facts["probed"] + report.facts["equal"] == report.facts["tensors"]


def changed(base: Tensors, merged: Tensors) -> list[str]:
    return [n for n in base if n in merged and not torch.equal(base[n], merged[n])]


def one_missing(base: Tensors, merged: Tensors) -> Tensors:
    name = changed(base, merged)[-1]
    return merged | {name: base[name]}


def all_missing(base: Tensors, merged: Tensors) -> Tensors:
    return merged | {name: base[name] for name in changed(base, merged)}


def scaled(factor: float) -> Spoil:
    """Put in `factor` times the update."""

    def spoil(base: Tensors, merged: Tensors) -> Tensors:
        for name in changed(base, merged):
            start = base[name].double()
            exact = start + factor * (merged[name].double() - start)
            merged[name] = exact.to(merged[name].dtype)
        return merged

    return spoil


def swapped_rows(base: Tensors, merged: Tensors) -> Tensors:
    name = changed(base, merged)[0]
    merged[name] = merged[name].clone()
    merged[name][[0, 1]] = merged[name][[1, 0]]
    return merged


def transposed(base: Tensors, merged: Tensors) -> Tensors:
    name = next(n for n in changed(base, merged) if base[n].shape[0] == base[n].shape[-1])
    start = base[name].double()
    merged[name] = (start + (merged[name].double() - start).T).to(merged[name].dtype)
    return merged


EVERYWHERE = {
    "one_missing": one_missing,
    "all_missing": all_missing,
    "doubled": scaled(2),
    "subtracted": scaled(-1),
    "swapped_rows": swapped_rows,
}
# One case per kind of update and of module.
KINDS = (
    "linear_llama_sharded",
    "conv1d_gpt2",
    "conv2d_3x3",
    "embedding",
    "dora_linear",
    "dora_gpt2",
    "dora_embedding",
    "bdlora",
    "kasa",
    "tokens",
    "two_scaled",
    "two_dora",
)


@every_dtype
@pytest.mark.parametrize("spoil", EVERYWHERE.values(), ids=EVERYWHERE)
@pytest.mark.parametrize("name", KINDS)
def test_a_wrong_update_is_found(
    name: str, spoil: Spoil, dtype: torch.dtype, tmp_path: Path
) -> None:
    CASES[name].build(tmp_path, dtype)
    tiny.merge_case(CASES[name], tmp_path)
    assert_found(tmp_path, spoil)


def square(folder: Path, dtype: torch.dtype, share: float) -> list[str]:
    """Merge a LoRA of a given size into a base of 256 × 256; gives the tensors it changes."""
    tensors = tiny.llama(layers=1, hidden=256, mlp=256, dtype=dtype)
    base = tiny.save_base(folder / "base", tensors)
    pairs = tiny.factors(tensors, tiny.linears(tensors), rank=8, share=share)
    adapter = tiny.save_lora(folder / "adapter", base, pairs)
    at.merge(adapter, base=base, out=folder / "out")
    return [f"{module}.weight" for module in pairs]


@pytest.mark.parametrize("spoil", [all_missing, scaled(2), transposed])
def test_an_update_of_one_per_cent_is_enough_in_bfloat16(spoil: Spoil, tmp_path: Path) -> None:
    square(tmp_path, torch.bfloat16, 0.01)
    assert_found(tmp_path, spoil)


@every_dtype
@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_scale_off_by_two_per_cent_is_found(
    factor: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    names = square(tmp_path, dtype, 0.1)
    spoiled(tmp_path, scaled(factor))
    assert places(at.verify(tmp_path / "out")) == set(names)


@every_dtype
@pytest.mark.parametrize("name", ["linear_llama", "conv1d_gpt2"])
def test_a_transposed_update_is_found(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    CASES[name].build(tmp_path, dtype)
    tiny.merge_case(CASES[name], tmp_path)
    assert_found(tmp_path, transposed)


def without_magnitude(folder: Path) -> Spoil:
    """Give what plain LoRA makes of a DoRA."""

    def spoil(base: Tensors, merged: Tensors) -> Tensors:
        held = load_file(folder / "adapter" / "adapter_model.safetensors")
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        scale = config["lora_alpha"] / config["r"]
        for name in changed(base, merged):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            delta = held[f"{stem}.lora_B.weight"].double() @ held[f"{stem}.lora_A.weight"].double()
            merged[name] = (base[name].double() + scale * delta).to(base[name].dtype)
        return merged

    return spoil


@every_dtype
def test_dora_without_its_magnitude_is_found(dtype: torch.dtype, tmp_path: Path) -> None:
    CASES["dora_linear"].build(tmp_path, dtype)
    tiny.merge_case(CASES["dora_linear"], tmp_path)
    assert_found(tmp_path, without_magnitude(tmp_path))


def left_out(ending: str) -> Spoil:
    """Leave tensors of some name as they are in the base."""

    def spoil(base: Tensors, merged: Tensors) -> Tensors:
        return merged | {n: base[n] for n in changed(base, merged) if n.endswith(ending)}

    return spoil


def zeroed(ending: str) -> Spoil:
    """Leave tensors that the base lacks empty."""

    def spoil(base: Tensors, merged: Tensors) -> Tensors:
        return merged | {n: t * 0 for n, t in merged.items() if n.endswith(ending)}

    return spoil


@every_dtype
@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("lora_bias", left_out(".bias")),
        ("bias_all", left_out(".bias")),
        ("save_lm_head", left_out("lm_head.weight")),
        ("save_norms", left_out("layernorm.weight")),
        ("tokens", left_out("embed_tokens.weight")),
        ("tied_tokens", left_out("embed_tokens.weight")),
        ("head_gpt2", zeroed("score.weight")),
        ("tied_lm_head", zeroed("lm_head.weight")),
    ],
)
def test_what_is_not_a_product_is_checked_too(
    name: str, spoil: Spoil, dtype: torch.dtype, tmp_path: Path
) -> None:
    CASES[name].build(tmp_path, dtype)
    tiny.merge_case(CASES[name], tmp_path)
    assert_found(tmp_path, spoil)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file; negative offsets count from its end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A right merge, at `tmp_path / "out"`; the last tensor of the last shard is untouched."""
    base, adapter = tiny.small(tmp_path, shards=3)
    at.merge(adapter, base=base, out=tmp_path / "out")
    return tmp_path / "out"


LAST, INDEX = "model-00003-of-00003.safetensors", "model.safetensors.index.json"


def test_one_bit_of_an_untouched_tensor_is_found(merged: Path) -> None:
    flip(merged / LAST, -1)
    assert places(at.verify(merged)) == {"model.norm.weight"}


def test_one_high_bit_of_an_edited_tensor_is_found(merged: Path) -> None:
    spec = at.plan(merged.parent / "adapter", base=merged, out=merged.parent / "x").edits[-1].source
    flip(merged / Path(spec.file).name, spec.stop - 1, bit=5)
    assert places(at.verify(merged)) == {spec.name}


def test_tensors_under_each_others_names_are_found(merged: Path) -> None:
    names = [f"model.layers.0.self_attn.{x}_proj.weight" for x in "qk"]
    tensors = tiny.read(merged)
    overwrite(merged, tensors | {names[0]: tensors[names[1]], names[1]: tensors[names[0]]})
    assert places(at.verify(merged)) == set(names)


@pytest.mark.parametrize("name", [LAST, INDEX, "config.json", "README.md"])
def test_a_missing_file_is_found(name: str, merged: Path) -> None:
    (merged / name).unlink()
    assert places(at.verify(merged)) == {name}


def test_a_shard_cut_short_is_found(merged: Path) -> None:
    os.truncate(merged / LAST, 500)
    assert places(at.verify(merged)) == {LAST}


def test_a_missing_tensor_is_found(merged: Path) -> None:
    held = load_file(merged / LAST)
    del held["model.norm.weight"]
    save_file(held, merged / LAST, {"format": "pt"})
    assert places(at.verify(merged)) == {LAST}


def test_weights_that_nobody_wrote_are_found(merged: Path) -> None:
    shutil.copyfile(merged / LAST, merged / "model-00004-of-00004.safetensors")
    assert places(at.verify(merged)) == {"model-00004-of-00004.safetensors"}


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_a_changed_file_that_decides_how_the_model_loads_is_found(name: str, merged: Path) -> None:
    text = (merged / name).read_text()
    (merged / name).write_text(text.replace("model", "muddle", 1))
    assert name in places(at.verify(merged))


def test_moved_inputs_are_found_again(merged: Path) -> None:
    folder = merged.parent
    (folder / "base").rename(folder / "moved-base")
    (folder / "adapter").rename(folder / "moved-adapter")
    with pytest.raises(at.errors.NotFound, match="base"):
        at.verify(merged, adapters=[folder / "moved-adapter"])
    with pytest.raises(at.errors.NotFound, match="adapter"):
        at.verify(merged, base=folder / "moved-base")
    report = at.verify(merged, base=folder / "moved-base", adapters=[folder / "moved-adapter"])
    assert report.ok


def test_a_lone_adapter_needs_no_list(merged: Path) -> None:
    adapter = (merged.parent / "adapter").rename(merged.parent / "moved")
    assert at.verify(merged, adapters=str(adapter)).ok


def test_a_file_that_joined_the_base_later_is_no_fault_of_the_merge(merged: Path) -> None:
    (merged.parent / "base" / "notes.json").write_text("{}")
    assert at.verify(merged).ok


def test_a_base_with_other_values_is_reported(merged: Path) -> None:
    flip(merged.parent / "base" / LAST, -1)
    assert places(at.verify(merged)) == {"model.norm.weight"}


def test_a_base_with_another_header_is_reported(merged: Path) -> None:
    base = merged.parent / "base"
    save_file(load_file(base / LAST), base / LAST, {"format": "pt", "by": "another"})
    report = at.verify(merged)
    assert {finding.code for finding in report.findings} == {"VER003"}
    assert places(report) == {str(base)}


def test_another_adapter_is_reported(merged: Path) -> None:
    adapter = merged.parent / "adapter" / "adapter_model.safetensors"
    tensors = load_file(adapter)
    name = next(n for n in tensors if n.endswith("q_proj.lora_B.weight"))
    save_file(tensors | {name: tensors[name] * 1.5}, adapter, {"format": "pt"})
    weight = name.removeprefix("base_model.model.").replace("lora_B.", "")
    assert places(at.verify(merged)) == {str(adapter.parent), weight}


def test_a_folder_without_receipt_is_refused(merged: Path) -> None:
    (merged / "adaptertools.json").unlink()
    with pytest.raises(at.errors.Unreadable, match="receipt"):
        at.verify(merged)


def test_the_folder_may_have_been_moved(merged: Path) -> None:
    assert at.verify(merged.rename(merged.parent / "elsewhere")).ok


def test_the_folder_may_be_the_current_one(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(merged)
    assert at.verify(".").ok


def test_nothing_is_written(merged: Path) -> None:
    before = tiny.contents(merged.parent)
    at.verify(merged)
    assert tiny.contents(merged.parent) == before


def test_every_byte_is_counted_as_progress(merged: Path) -> None:
    counts: list[int] = []
    at.verify(merged, progress=counts.append)
    assert sum(counts) == sum(tensor.nbytes for tensor in tiny.read(merged).values())


@pytest.mark.parametrize("name", ["linear_llama", "dora_gpt2", "tokens", "lora_bias", "kasa"])
def test_it_shares_no_arithmetic_with_the_merge(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **named: object) -> None:
        raise AssertionError("verify used the merge's own arithmetic")

    CASES[name].build(tmp_path, torch.bfloat16)
    out = tiny.merge_case(CASES[name], tmp_path)
    for module in (runner, tiles):
        for own, value in vars(module).items():
            if getattr(value, "__module__", "") == module.__name__ and callable(value):
                monkeypatch.setattr(module, own, never)
    for update in (LowRank, Dora, Rows, Toward, Shift, Truncate):
        monkeypatch.setattr(update, "open", never)
    monkeypatch.setattr(Product, "fill", never)
    with pytest.raises(AssertionError, match="own arithmetic"):
        at.merge(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "again")
    assert at.verify(out).ok
