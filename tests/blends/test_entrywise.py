"""Entry-wise formulas on the dense updates: PEFT's functions, and the published ones written out.

Random ones get the same mask. `rank` is full here: how well factors come close to such a matrix is
in test_sketch.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from adaptertools.blends import Options
from adaptertools.blends.della import odds
from adaptertools.errors import Unsupported
from adaptertools.requantise import Dice
from tests.blends.made import Array, Case, alike, blended, case, cases, near

DENSITIES = [0.1, 0.5, 1.0]


def tensors(deltas: Sequence[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(delta)) for delta in deltas]


def thrown(made: Case) -> list[Array]:
    """The 16 bits that each entry of each update gets."""
    m, n = made.shape
    return [Dice(f"x.q_proj\0{i}", 3, n).roll(0, m) for i in range(len(made.parts))]


def with_masks(masks: Sequence[Array], run: Callable[[], torch.Tensor]) -> Array:
    """Run with these in place of torch's own coins."""
    each = iter([torch.from_numpy(mask).double() for mask in masks])
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says so where nothing is pruned
        patch.setattr(torch, "bernoulli", lambda *_: next(each))
        return run().numpy()


@cases()
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("how", "theirs"), [("ties", "ties"), ("prune", "magnitude_prune")])
def test_peft_on_the_dense_updates(how: str, theirs: str, density: float, made: Case) -> None:
    run: Any = getattr(merge_utils, theirs)
    ones = torch.ones(len(made.parts), dtype=torch.float64)
    wanted = with_masks([], lambda: run(tensors(made.deltas), ones, density))
    near(blended(how, made.parts, made.weights, density=density), wanted, made.size)


@pytest.mark.parametrize(("how", "theirs"), [("ties", "ties"), ("prune", "magnitude_prune")])
def test_equal_weights_may_as_well_come_after(how: str, theirs: str) -> None:
    """PEFT multiplies by the weight last: the same where all are one positive number."""
    made = alike(2, 3, 20, 17)
    run: Any = getattr(merge_utils, theirs)
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    wanted = run(tensors([p.dense() for p in made.parts]), third, 0.4).numpy()
    near(blended(how, made.parts, [1 / 3] * 3, density=0.4), wanted)


@cases()
@pytest.mark.parametrize("density", [0.125, 0.5, 1.0])
def test_dare_is_pefts_with_the_same_mask(density: float, made: Case) -> None:
    masks = [bits < density * 2**16 for bits in thrown(made)]
    ones = torch.ones(len(masks), dtype=torch.float64)
    run = lambda: merge_utils.dare_linear(tensors(made.deltas), ones, density)  # noqa: E731
    wanted = with_masks(masks, run)
    near(blended("dare", made.parts, made.weights, density=density), wanted, made.size)


def test_dare_means_the_sum_and_seeds_and_targets_throw_other_dice() -> None:
    made = case(4, 20, 16)
    ask = (made.parts, made.weights)
    throws = [blended("dare", *ask, seed=s, density=0.3) for s in range(400)]
    total = sum(made.deltas)
    assert np.linalg.norm(np.mean(throws, axis=0) - total) < 0.15 * np.linalg.norm(total)
    assert np.linalg.norm(throws[0] - total) > 0.5 * np.linalg.norm(total)
    assert np.array_equal(blended("dare", *ask, seed=1), blended("dare", *ask, seed=1))
    assert not np.allclose(blended("dare", *ask, target="y"), blended("dare", *ask))


@cases()
@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.25), (0.25, 0.125), (0.5, 0.0)])
def test_della_is_magprune_elect_and_fuse(density: float, epsilon: float, made: Case) -> None:
    pruned = []
    for delta, bits in zip(made.deltas, thrown(made), strict=True):
        ranks = np.abs(delta).argsort(axis=1).argsort(axis=1)
        share = ranks / max(made.shape[1] - 1, 1)
        chance = np.rint((density - epsilon + 2 * epsilon * share) * 2**16) / 2**16
        pruned.append(np.where(bits < chance * 2**16, delta / chance, 0))
    stacked = torch.stack(tensors(pruned))
    mask = merge_utils.calculate_majority_sign_mask(stacked)
    wanted = merge_utils.disjoint_merge(stacked, mask).numpy()
    found = blended("della", made.parts, made.weights, density=density, epsilon=epsilon)
    near(found, wanted, 10 * made.size)  # entries are enlarged up to 16 times


def test_della_keeps_the_expectation_and_large_entries_more_often() -> None:
    entries = np.random.default_rng(1).normal(size=(50, 400))
    chances = odds(entries, 0.4, 0.2) / 2**16
    assert chances.mean() == pytest.approx(0.4, abs=1e-4)
    assert chances.min() == pytest.approx(0.2, abs=1e-4)
    assert chances.max() == pytest.approx(0.6, abs=1e-4)
    for row, odd in zip(entries, chances, strict=True):
        assert (np.diff(odd[np.argsort(np.abs(row))]) >= 0).all()
    assert odds(entries[:, :1], 0.4, 0.2) == pytest.approx(0.4 * 2**16, rel=1e-4)


@pytest.mark.parametrize(("density", "epsilon"), [(0.05, 0.1), (0.95, 0.1)])
def test_della_refuses_what_is_no_probability(density: float, epsilon: float) -> None:
    made = case(1)
    with pytest.raises(Unsupported, match="smaller"):
        blended("della", made.parts, made.weights, density=density, epsilon=epsilon)


@cases()
@pytest.mark.parametrize(
    ("density", "gamma"), [(0.5, 0.1), (0.9, 0.05), (0.9, 0.3), (0.3, 0.0), (1.0, 0.2), (0.4, 1e-9)]
)
def test_breadcrumbs_are_the_middle_of_the_order(density: float, gamma: float, made: Case) -> None:
    wanted = np.zeros(made.shape)
    for delta in made.deltas:
        kept, top = int(density * delta.size), int(gamma * delta.size)
        top = min(top, delta.size - kept)
        order = np.argsort(np.abs(delta), axis=None)[::-1][top : top + kept]
        wanted.flat[order] += delta.flat[order]
    found = blended("breadcrumbs", made.parts, made.weights, density=density, gamma=gamma)
    near(found, wanted, made.size)


@cases()
@pytest.mark.parametrize("density", DENSITIES)
def test_sce_selects_weighs_and_erases(density: float, made: Case) -> None:
    stacked = np.stack(made.deltas)
    if density < 1 and len(stacked) > 1:
        spread = stacked.var(axis=0)
        count = int(np.count_nonzero(spread) * density)
        chosen = np.zeros(made.shape)
        chosen.flat[np.argsort(spread, axis=None)[::-1][:count]] = 1
        stacked = stacked * chosen
    energy = (stacked**2).mean(axis=(1, 2))
    share = energy / energy.sum() if energy.any() else np.ones(len(stacked)) / len(stacked)
    majority = np.where(stacked.sum(axis=0) >= 0, 1, -1)
    weight = share[:, None, None] * (np.sign(stacked) == majority)
    wanted = (stacked * weight).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-6)
    found = blended("sce", made.parts, made.weights, density=density)
    near(found, wanted, made.size)


def test_sce_does_not_depend_on_how_small_the_updates_are() -> None:
    """mergekit's absolute 1e-6 weighs all updates alike at the size that LoRAs have."""
    made = alike(5, 3)
    small = [part.scaled(1e-5) for part in made.parts]
    ours = blended("sce", small, made.weights)
    near(ours, 1e-5 * blended("sce", made.parts, made.weights))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"density": 0.0}, "density 0"),
        ({"density": 1.5}, "density 1.5"),
        ({"gamma": -0.1}, "gamma -0.1"),
        ({"common": 2.0}, "common 2"),
        ({"epsilon": -1.0}, "epsilon -1"),
        ({"rank": -1}, "rank -1"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        Options(**wrong)
