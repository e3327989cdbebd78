"""Packed experts' factors are those that PEFT multiplies out, and go back bit for bit."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import ParamWrapper
from torch import nn

from adaptertools.formats._experts_pack import packed, unpacked

EXPERTS, OUT, IN, RANK = 3, 5, 4, 2


class Experts(nn.Module):
    """A module with one weight of all experts; transformers marks those stored (in, out)."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        shape = (EXPERTS, IN, OUT) if transposed else (EXPERTS, OUT, IN)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.is_transposed = transposed


@pytest.mark.parametrize("transposed", [False, True])
def test_they_are_what_peft_multiplies(transposed: bool) -> None:
    config = LoraConfig(r=RANK, lora_alpha=RANK)
    layer = ParamWrapper(Experts(transposed), "default", "weight", config, r=RANK, lora_alpha=RANK)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(b)
    expected = layer.get_delta_weight("default").detach().numpy()
    expected = expected.swapaxes(1, 2) if transposed else expected
    down, up = unpacked(a.detach().numpy(), b.detach().numpy(), EXPERTS)
    assert (down.shape, up.shape) == ((EXPERTS, RANK, IN), (EXPERTS, OUT, RANK))
    np.testing.assert_allclose(up @ down, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_and_back(turned: bool, dtype: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(EXPERTS * RANK, IN)).astype(dtype)
    b = rng.normal(size=(OUT, RANK * EXPERTS)).astype(dtype)
    down, up = unpacked(a, b, EXPERTS, turned=turned)
    again = packed(down, up, turned=turned)
    assert all((one == two).all() for one, two in zip(again, (a, b), strict=True))
    other, _ = unpacked(a, b, EXPERTS, turned=not turned)
    assert other.shape != down.shape


def test_turned_is_the_product_transposed() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(EXPERTS * RANK, IN)), rng.normal(size=(OUT, RANK * EXPERTS))
    one, two = (unpacked(a, b, EXPERTS, turned=turned) for turned in (False, True))
    np.testing.assert_allclose(two[1] @ two[0], (one[1] @ one[0]).swapaxes(1, 2))


def test_columns_by_expert() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(EXPERTS * RANK, IN)), rng.normal(size=(OUT, EXPERTS * RANK))
    _, up = unpacked(a, b, EXPERTS, expert_major=True)
    for expert in range(EXPERTS):
        assert (up[expert] == b[:, expert * RANK : (expert + 1) * RANK]).all()
    assert not (up == unpacked(a, b, EXPERTS)[1]).all()
