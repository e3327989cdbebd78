"""Fused experts against what PEFT's ParamWrapper adds, and expert by expert."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from adaptertools.update.experts import Experts
from tests.update.weights import Held, close, factors, noise, over, seeds, sizes, updated

E, R, ROWS, COLUMNS = 3, 2, 6, 4


def fused(
    turned: bool = False, rank_major: bool = True, scale: float = 0.7, seed: int = 0
) -> Experts:
    """Random factors for weights that are (6, 4) as they are stored."""
    out, in_ = (COLUMNS, ROWS) if turned else (ROWS, COLUMNS)
    up, down = noise(seed, out, R * E), noise(seed + 1, E * R, in_)
    return Experts(Held(up), Held(down), E, R, scale, rank_major=rank_major, turned=turned)


class Layer(nn.Module):
    def __init__(self, weight: torch.Tensor, is_transposed: bool) -> None:
        super().__init__()
        self.weight, self.is_transposed = nn.Parameter(weight), is_transposed


@pytest.mark.parametrize("size", [(6, 4), (4, 4)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_it_is_what_peft_merges(turned: bool, size: tuple[int, int]) -> None:
    peft = pytest.importorskip("peft")
    rows, columns = size
    weight = noise(9, E, rows, columns)
    model = nn.ModuleDict({"experts": Layer(weight.clone(), turned)})
    config = peft.LoraConfig(
        r=R, lora_alpha=3, target_modules=[], target_parameters=["experts.weight"],
        init_lora_weights=False,
    )  # fmt: skip
    wrapped = peft.get_peft_model(model, config)
    layer = wrapped.base_model.model.experts
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    down.data, up.data = a, b = noise(0, *down.shape), noise(1, *up.shape)
    wanted = wrapped.merge_and_unload()["experts"].weight.data
    ours = Experts(Held(b), Held(a), E, R, 1.5, rank_major=True, turned=turned)
    assert ours.shape == (E * rows, columns)
    close(updated(weight.flatten(0, 1), [ours], 5), wanted.flatten(0, 1))
    assert not torch.equal(wanted, weight)


@over(step=sizes, scale=factors, seed=seeds)
def test_any_tiling_is_every_expert_by_itself(step: int, scale: float, seed: int) -> None:
    for turned in (False, True):
        for rank_major in (False, True):
            update = fused(turned, rank_major, scale, seed)
            weight = noise(seed + 2, E, ROWS, COLUMNS)
            alone = [updated(w.clone(), [update.expert(e)], 4) for e, w in enumerate(weight)]
            close(updated(weight.flatten(0, 1), [update], step), torch.cat(alone))


def test_the_layouts_of_b_are_those_of_peft_and_of_unsloth() -> None:
    one = fused(rank_major=True)
    whole = one.up.values.reshape(ROWS, R, E).transpose(1, 2).reshape(ROWS, E * R)
    other = replace(one, up=Held(whole), rank_major=False)
    weight = noise(2, E * ROWS, COLUMNS)
    close(updated(weight, [one]), updated(weight, [other]))
    wrong = replace(one, rank_major=False)
    assert (updated(weight, [one]) - updated(weight, [wrong])).abs().max() > 0.1


def test_norm_is_that_of_the_change() -> None:
    update, weight = fused(), noise(2, E * ROWS, COLUMNS)
    wanted = torch.linalg.norm(updated(weight, [update]) - weight).item()
    base = type("Base", (), {"dtype": "float64", "shape": update.shape})()
    assert update.open(base).norm == pytest.approx(wanted, rel=1e-12)


def test_an_expert_reads_only_its_own_rows_of_a() -> None:
    class Rows(Held):
        ranged = True

        def read(self, dtype: str) -> object:
            raise AssertionError("the whole of it was read")

    update = fused()
    only = replace(update, down=Rows(update.down.values)).expert(2)
    close(torch.from_numpy(only.down.read("float64")), update.down.values[2 * R :])
