"""Other tools' numbers: PEFT by running it, kohya and LoRAHub by their published formulas."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from adaptertools.blends import Options
from adaptertools.blends._emulate import EMULATORS, Raw
from adaptertools.errors import Unsupported
from adaptertools.update.factors import Factors
from tests.blends.made import Array, factors, near, regauged

WEIGHTS = [(0.5, 0.5), (1.0, -1.0), (0.7, 0.4), (-0.3, 1.2)]
Raws = list[Raw]
PEFT = tuple(int(part) for part in version("peft").split(".")[:2])


class Tiny(torch.nn.Module):
    """One layer of each kind that PEFT's functions treat apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(14, 18, bias=False)
        self.words = torch.nn.Embedding(20, 12)


def peft_adds(
    weights: tuple[float, ...], kind: str, alphas: tuple[int, ...], rslora: bool, **more: Any
) -> tuple[dict[str, Raws], dict[str, Array]]:
    """Train nothing, draw factors, and let PEFT combine them: what went in, and what came out."""
    torch.manual_seed(0)
    config = {"r": 4, "use_rslora": rslora, "target_modules": ["linear", "words"]}
    model = get_peft_model(Tiny(), LoraConfig(lora_alpha=alphas[0], **config), adapter_name="a0")
    for i, alpha in enumerate(alphas[1:], 1):
        model.add_adapter(f"a{i}", LoraConfig(lora_alpha=alpha, **config))
    for name, values in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(values)
    names = [f"a{i}" for i in range(len(alphas))]
    model.add_weighted_adapter(names, list(weights), "both", combination_type=kind, **more)
    linear, words = model.base_model.model.linear, model.base_model.model.words
    raw: dict[str, Raws] = {"linear": [], "words": []}
    for name in names:
        a, b = linear.lora_A[name].weight, linear.lora_B[name].weight
        raw["linear"].append(Raw(in64(b, a), linear.scaling[name], rslora))
        a, b = words.lora_embedding_A[name], words.lora_embedding_B[name]
        raw["words"].append(Raw(in64(b, a), words.scaling[name], rslora))
    deltas = {"linear": linear, "words": words}
    return raw, {k: v.get_delta_weight("both").detach().numpy() for k, v in deltas.items()}


def in64(up: torch.Tensor, down: torch.Tensor) -> Factors:
    return Factors(up.detach().double().numpy(), down.detach().double().numpy())


@pytest.mark.skipif(not (0, 19) <= PEFT <= (0, 21), reason="emulated is PEFT 0.19 to 0.21")
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("alphas", [(4, 4), (8, 2)])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    ("name", "more"),
    [("linear", {})] + [("ties", {"density": density}) for density in (0.23, 0.5, 1.0)],
    ids=["linear", "ties-few", "ties-half", "ties-all"],
)
@pytest.mark.filterwarnings("ignore:The density")
def test_peft_by_running_it(
    name: str, more: dict[str, Any], weights: tuple[float, ...], alphas: tuple[int, ...],
    rslora: bool,
) -> None:  # fmt: skip
    raw, wanted = peft_adds(weights, name, alphas, rslora, **more)
    run = EMULATORS[f"peft-{name}"]
    near(run(raw["linear"], weights, Options(**more)).dense(), wanted["linear"], tolerance=1e-6)
    near(run(raw["words"], weights, Options(**more)).dense().T, wanted["words"], tolerance=1e-6)


def raws(seed: int, scales: tuple[float, ...], rank: int = 4) -> Raws:
    return [Raw(factors(seed + i, 18, 14, rank), scale) for i, scale in enumerate(scales)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("alphas", [(4.0, 4.0), (8.0, 2.0), (1.0, 16.0)])
def test_kohya_by_its_formula(weights: tuple[float, ...], alphas: tuple[float, ...]) -> None:
    """networks/merge_lora.py: factors times ratio·√(α/α₁), |·| for lora_up; alpha stays α₁."""
    raw = raws(7, tuple(alpha / 4 for alpha in alphas))
    up, down = np.zeros((18, 4)), np.zeros((4, 14))
    for each, weight, alpha in zip(raw, weights, alphas, strict=True):
        scale = math.sqrt(alpha / alphas[0]) * weight
        up += abs(scale) * each.factors.up
        down += scale * each.factors.down
    found = EMULATORS["kohya"](raw, weights, Options()).dense()
    near(found, alphas[0] / 4 * up @ down, tolerance=1e-13)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_lorahub_by_its_formula(weights: tuple[float, ...]) -> None:
    """algorithm.py: both state dicts times the weight, added; loaded with the first's config."""
    raw = raws(9, (2.0, 0.5))
    up = weights[0] * raw[0].factors.up + weights[1] * raw[1].factors.up
    down = weights[0] * raw[0].factors.down + weights[1] * raw[1].factors.down
    found = EMULATORS["lorahub"](raw, weights, Options()).dense()
    near(found, 2.0 * up @ down, tolerance=1e-13)


def test_faults_that_are_known_of_them() -> None:
    """What users complain of, so that the labels are deserved."""
    one = raws(1, (1.0,))[0]
    twice = [one, one]
    delta = one.factors.dense()
    near(EMULATORS["peft-linear"](twice, (0.5, 0.5), Options()).dense(), 2 * delta)
    near(EMULATORS["kohya"]([one], (0.5,), Options()).dense(), 0.25 * delta)
    near(EMULATORS["lorahub"]([one], (-1.0,), Options()).dense(), delta)


@pytest.mark.parametrize("name", sorted(EMULATORS))
def test_they_depend_on_the_gauge(name: str) -> None:
    raw = raws(3, (1.0, 1.0))
    # The same update, without the row of zeros that would change the rank.
    other = regauged(raw[1].factors, 5)
    moved = [raw[0], Raw(Factors(other.up[:, :-1], other.down[:-1]), 1.0)]
    one, two = (EMULATORS[name](x, (0.6, 0.8), Options()).dense() for x in (raw, moved))
    assert np.linalg.norm(one - two) > 0.1 * np.linalg.norm(one)


@pytest.mark.parametrize("name", sorted(EMULATORS))
def test_unequal_ranks_are_refused_as_the_tools_refuse_them(name: str) -> None:
    with pytest.raises(Unsupported, match="ranks 3, 4"):
        EMULATORS[name](raws(1, (1.0,)) + raws(2, (1.0,), rank=3), (1.0, 1.0), Options())


def test_kohya_has_no_root_of_a_negative_alpha() -> None:
    with pytest.raises(Unsupported, match="root"):
        EMULATORS["kohya"](raws(1, (1.0, -1.0)), (1.0, 1.0), Options())
