"""Formulas on spectra against their published definitions on dense updates, within the span."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from adaptertools import plugins
from adaptertools.requantise import Dice
from adaptertools.update.factors import Factors, cat
from tests.blends.made import Array, Case, alike, blended, case, cases, factors, near, options

SPECTRAL = ["knots_ties", "tsv", "iso_c", "iso_cts"]


def largest(matrix: Array, rank: int) -> tuple[Array, Array, Array]:
    """The largest singular triplets of a dense matrix."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank], s[:rank], vt[:rank]


def rank_of(matrix: Array) -> int:
    return int(np.linalg.matrix_rank(matrix, tol=1e-9 * np.linalg.norm(matrix)))


def blocks(deltas: Sequence[Array]) -> tuple[Array, list[Array]]:
    """KnOTS: U and S Vᵢᵀ of [ΔW₁ … ΔW_K]."""
    joined = np.concatenate(deltas, axis=1)
    u, s, vt = largest(joined, rank_of(joined))
    return u, np.split(s[:, None] * vt, len(deltas), axis=1)


def orthogonal(matrix: Array) -> Array:
    """TSV-M's and Iso-CTS's orthogonalisation, with the directions that there are."""
    u, _, vt = largest(matrix, rank_of(matrix))
    return u @ vt


@cases()
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_knots_ties_is_pefts_ties_on_the_dense_blocks(density: float, made: Case) -> None:
    u, seen = blocks(made.deltas)
    tensors = [torch.from_numpy(block) for block in seen]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # density 1 prunes nothing
        merged = merge_utils.ties(tensors, torch.ones(len(tensors)), density).numpy()
    near(blended("knots_ties", made.parts, made.weights, density=density), u @ merged, made.size)


@cases()
def test_knots_dare_is_pefts_dare_on_the_dense_blocks(made: Case) -> None:
    u, seen = blocks(made.deltas)
    tensors = [torch.from_numpy(block) for block in seen]
    dice = [Dice(f"x.q_proj\0{i}", 3, made.shape[1]) for i in range(len(tensors))]
    masks = iter([torch.from_numpy(d.roll(0, len(u.T)) < 2**15).double() for d in dice])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bernoulli", lambda *_: next(masks))
        merged = merge_utils.dare_linear(tensors, torch.ones(len(tensors)), 0.5).numpy()
    near(blended("knots_dare", made.parts, made.weights, density=0.5), u @ merged, made.size)


@cases()
def test_tsv_is_the_published_code_with_each_tasks_own_rank(made: Case) -> None:
    found = [
        largest(d, min(p.rank, *p.shape)) for d, p in zip(made.deltas, made.parts, strict=True)
    ]
    u = orthogonal(np.concatenate([one[0] for one in found], axis=1))
    s = np.concatenate([one[1] for one in found])
    vt = orthogonal(np.concatenate([one[2] for one in found]))
    near(blended("tsv", made.parts, made.weights), u @ np.diag(s) @ vt, made.size)


@cases()
def test_iso_c_is_the_published_code_within_the_span(made: Case) -> None:
    total = np.asarray(sum(made.deltas))
    u, s, vt = largest(total, rank_of(total))
    near(blended("iso_c", made.parts, made.weights), s.mean() * u @ vt, made.size)


@cases()
@pytest.mark.parametrize("share", [0.8, 0.5, 1.0, 0.0])
def test_iso_cts_is_the_published_code_within_the_span(share: float, made: Case) -> None:
    deltas, count = made.deltas, len(made.deltas)
    total = np.asarray(sum(deltas))
    size = rank_of(total)
    specific = round((size - int(size * share)) / count) * count
    common = max(size - specific, 0)
    u, s, vt = largest(total, common)
    triplets = [(u, s, vt)]
    for delta in deltas:
        rest = delta - u @ u.T @ delta
        live = rank_of(rest) if np.linalg.norm(rest) > 1e-9 * made.size else 0
        triplets.append(largest(rest, min(specific // count, live)))
    left = orthogonal(np.concatenate([one[0] for one in triplets], axis=1))
    right = orthogonal(np.concatenate([one[2] for one in triplets]))
    mean = np.concatenate([one[1] for one in triplets]).mean()
    wanted = mean * left @ right
    near(blended("iso_cts", made.parts, made.weights, common=share), wanted, made.size)


@pytest.mark.parametrize("how", SPECTRAL[1:])
def test_no_direction_comes_in_that_no_update_has(how: str) -> None:
    """Four updates that share A have rank 4, not 16, and the null space adds nothing."""
    shared, dice = factors(1, 40, 30, 4), np.random.default_rng(2)
    parts = [Factors(dice.normal(size=(40, 4)), shared.down) for _ in range(4)]
    found = blended(how, parts, [1.0] * 4)
    outside = np.eye(30) - np.linalg.qr(shared.down.T)[0] @ np.linalg.qr(shared.down.T)[0].T
    assert rank_of(found) == 4
    assert np.linalg.norm(found @ outside) <= 1e-12 * np.linalg.norm(found)


@pytest.mark.parametrize("how", SPECTRAL)
def test_what_is_only_rounding_of_stored_factors_does_not_count(how: str) -> None:
    """A twice, once through float32 in another gauge: directions of 1e-8 must not be levelled."""
    part = factors(1, 40, 30, 4)
    gauge = np.random.default_rng(5).normal(size=(4, 4))
    up, down = part.up @ np.linalg.inv(gauge), gauge @ part.down
    other = Factors(*(x.astype(np.float32).astype(np.float64) for x in (up, down)))
    near(
        blended(how, [part, other], [1.0, 1.0], density=1.0),
        blended(how, [part, part], [1.0, 1.0], density=1.0),
        tolerance=1e-5,
    )


def test_a_direction_that_is_rounding_does_not_push_a_real_one_aside() -> None:
    one, other = factors(1, 40, 30, 3), factors(2, 40, 30, 2)
    noisy = cat([one, other.scaled(1e-9)])
    near(
        blended("tsv", [noisy, other], [1.0, 1.0]),
        blended("tsv", [one, other], [1.0, 1.0]),
        tolerance=1e-7,
    )


def test_knots_blocks_are_row_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = case(9, 40, 30, (5, 6, 4))
    whole = blended("knots_ties", made.parts, made.weights)
    monkeypatch.setattr("adaptertools.blends._entrywise.TILE", 64)
    near(blended("knots_ties", made.parts, made.weights), whole, tolerance=1e-13)


@pytest.mark.parametrize("how", [*SPECTRAL, "knots_dare"])
def test_the_rank_is_at_most_the_sum_of_ranks(how: str) -> None:
    made = alike(4, 3, 50, 40)
    found = plugins.load("blends", how).blend(made.parts, made.weights, options((50, 40)))
    assert found.rank <= sum(p.rank for p in made.parts)
