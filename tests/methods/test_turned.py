"""Methods that multiply or replace the weight: what no table of cases says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, OFTConfig, PeftMixedModel, PeftModel
from safetensors.torch import save_file
from torch import nn

import adaptertools as at
from adaptertools import tiles
from adaptertools.errors import Unreadable, Unsupported
from tests import handmade, kit
from tests.cases_methods import MethodCase, every
from tests.cases_models import llama, qwen2, randomised
from tests.cases_recipe import quiet

torch.set_num_threads(1)

CASES = every()
FIRST = ("IA3 biased", "OFT linear", "BOFT linear three factors", "HRA linear", "ROAD biased four",
         "LN_TUNING norm", "TRAINABLE_TOKENS embedding", "HIRA linear", "GLORA biased",
         "DEFT linear", "DEFT conv1d", "PEANUT linear")  # fmt: skip


def merged(case: MethodCase, folder: Path, **options: Any) -> kit.Tensors:
    """Merge all adapters of a case."""
    paths = [str(path) for path in case.adapters(folder)]
    at.merge(paths, base=str(folder / "base"), out=str(folder / "out"), **options)
    return kit.read(folder / "out")


def close(case: MethodCase, ours: kit.Tensors, folder: Path) -> None:
    """Compare with PEFT."""
    expected = kit.reference(case, folder)
    kit.assert_close(ours, expected, torch.float32, case.tolerance or 1e-7)


@pytest.mark.parametrize("name", FIRST)
def test_tiles_of_a_few_rows_give_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CASES[name].build(tmp_path, torch.float32)
    monkeypatch.setattr(tiles, "TILE", 150)
    close(CASES[name], merged(CASES[name], tmp_path), tmp_path)
    assert not at.verify(tmp_path / "out").findings


@pytest.mark.parametrize("name", FIRST)
def test_half_the_scale_goes_half_the_way(name: str, tmp_path: Path) -> None:
    CASES[name].build(tmp_path, torch.float32)
    base, whole = kit.read(tmp_path / "base"), kit.reference(CASES[name], tmp_path)
    half = {n: (whole[n] + t.double()) / 2 for n, t in base.items()}
    ours = merged(CASES[name], tmp_path, scale=0.5)
    kit.assert_close(ours, half, torch.float32, 1e-6)
    assert not at.verify(tmp_path / "out").findings


@pytest.mark.parametrize("name", FIRST)
def test_a_wrong_element_is_found(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    ours, base = merged(case, tmp_path), kit.read(tmp_path / "base")
    changed = next(n for n, t in ours.items() if not torch.equal(t, base[n]))
    file = next((tmp_path / "out").glob("*.safetensors"))
    ours[changed].view(-1)[5] *= 1.01
    save_file(ours, file, {"format": "pt"})
    assert [f for f in at.verify(tmp_path / "out").findings if f.level == "error"]


class Groups(nn.Module):
    """Convolutions of which only the config tells what the factors multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.square = nn.Conv2d(6, 6, 1)
        self.wide = nn.Conv2d(8, 12, 1, groups=2)


@pytest.mark.parametrize("feeds", [[], ["grouped", "square", "wide"], ".*"], ids=str)
def test_ia3_on_grouped_convolutions(feeds: Any, tmp_path: Path) -> None:
    lora = {"peft_type": "IA3", "target_modules": ["grouped", "square", "wide"]}
    case = MethodCase(
        "ia3 groups", lambda: randomised(Groups()), ({**lora, "feedforward_modules": feeds},)
    )
    case.build(tmp_path, torch.float32)
    ours = merged(case, tmp_path)
    kit.assert_within_one_ulp(ours, kit.reference(case, tmp_path), torch.float32)
    assert not at.verify(tmp_path / "out").findings


def test_ia3_on_a_square_convolution_needs_the_config(tmp_path: Path) -> None:
    case = CASES["IA3 conv2d"]
    case.build(tmp_path, torch.float32)
    edit(tmp_path / "adapter", feedforward_modules=None)
    with pytest.raises(Unreadable, match="feedforward_modules is None, and without it"):
        merged(case, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["lora first", "oft first"])
def test_oft_and_lora_together(order: tuple[int, int], tmp_path: Path) -> None:
    targets = ["q_proj", "down_proj"]
    oft = MethodCase("oft", llama(), ({"peft_type": "OFT", "target_modules": targets,
                     "oft_block_size": 8},), auto=CASES["OFT linear"].auto)  # fmt: skip
    lora = replace(oft, loras=({"peft_type": "LORA", "target_modules": targets, "r": 4},))
    for case, name in ((lora, "0"), (oft, "1")):
        case.build(tmp_path / name, torch.float32)
    paths = [tmp_path / str(i) / "adapter" for i in order]
    with quiet():
        model = oft.load_base(tmp_path / "0", torch.float64)
        if order == (0, 1):
            mixed = PeftMixedModel.from_pretrained(model, paths[0], "a")
            mixed.load_adapter(paths[1], "b")
            mixed.set_adapter(["a", "b"])
            assert {type(c) for c in mixed.peft_config.values()} == {LoraConfig, OFTConfig}
            model = mixed.double().merge_and_unload()
        else:  # PEFT mixes no adapters of which the first is OFT: one after the other
            for path in paths:
                model = PeftModel.from_pretrained(model, path).double().merge_and_unload()
        expected = kit.saved_tensors(model)
    at.merge([str(p) for p in paths], base=str(tmp_path / "0/base"), out=str(tmp_path / "out"))
    kit.assert_within_one_ulp(kit.read(tmp_path / "out"), expected, torch.float32)


def test_trainable_tokens_of_a_tied_embedding_stay_tied(tmp_path: Path) -> None:
    case = replace(CASES["TRAINABLE_TOKENS embedding"], base=qwen2(tied=True))
    case.build(tmp_path, torch.float32)
    expected = kit.reference(case, tmp_path)
    expected.pop("lm_head.weight", None)
    kit.assert_within_one_ulp(merged(case, tmp_path), expected, torch.float32)


def test_the_series_of_peft_017(tmp_path: Path) -> None:
    case = CASES["OFT linear"]
    case.build(tmp_path, torch.float32)
    edit(tmp_path / "adapter", peft_version=None)
    name = "model.layers.1.mlp.down_proj"
    stored = kit.read(tmp_path / "adapter")[f"base_model.model.{name}.oft_R.weight"].double()
    skew = torch.zeros(len(stored), 8, 8, dtype=torch.float64)
    rows, columns = torch.triu_indices(8, 8, 1)
    skew[:, rows, columns] = stored
    skew = skew - skew.transpose(1, 2)
    turn = torch.eye(8).double() + 2 * sum(torch.matrix_power(skew, n) for n in range(1, 5))
    before = kit.read(tmp_path / "base")[f"{name}.weight"].double()
    expected = before @ torch.block_diag(*turn).T
    ours = merged(case, tmp_path)[f"{name}.weight"].double()
    assert torch.allclose(ours, expected, atol=1e-7)


def edit(adapter: Path, **changes: Any) -> None:
    """Change keys of an adapter's config; None takes one out."""
    config = handmade.json.loads((adapter / "adapter_config.json").read_text())
    kept = {key: value for key, value in {**config, **changes}.items() if value is not None}
    handmade.write_json(adapter / "adapter_config.json", kept)


@pytest.mark.parametrize("name", ["LN_TUNING norm", "TRAINABLE_TOKENS embedding"])
def test_two_adapters_that_replace_the_same_are_refused(name: str, tmp_path: Path) -> None:
    case = replace(CASES[name], loras=2 * CASES[name].loras)
    case.build(tmp_path, torch.float32)
    with pytest.raises(Unsupported, match="one of the adapters"):
        merged(case, tmp_path)
    assert not (tmp_path / "out").exists()


def test_token_rows_of_two_adapters_that_differ(tmp_path: Path) -> None:
    one, *_ = CASES["TRAINABLE_TOKENS embedding"].loras
    other = {**one, "token_indices": [5, 90]}
    case = replace(CASES["TRAINABLE_TOKENS embedding"], loras=(one, other))
    case.build(tmp_path, torch.float32)
    kit.assert_within_one_ulp(merged(case, tmp_path), kit.reference(case, tmp_path), torch.float32)
