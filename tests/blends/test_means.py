"""Sums and means against their formulas on the dense updates."""

from __future__ import annotations

import numpy as np
import pytest

from adaptertools import plugins
from adaptertools.blends import Options
from adaptertools.errors import Unsupported
from adaptertools.update.factors import Factors
from tests.blends.made import Array, Case, alike, blended, case, cases, near


def angle(one: Array, other: Array) -> float:
    cosine = np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
    return float(np.arccos(np.clip(cosine, -1, 1)))


@cases()
@pytest.mark.parametrize("how", ["sum", "cat"])
def test_sum_and_cat_are_the_dense_sum(how: str, made: Case) -> None:
    near(blended(how, made.parts, made.weights), sum(made.deltas), made.size, 1e-12)


def test_cat_keeps_the_factors() -> None:
    made = case(1)
    found = plugins.load("blends", "cat").blend(made.parts, made.weights, Options())
    assert np.array_equal(found.up, np.concatenate([p.up for p in made.parts], axis=1))
    ends = np.cumsum([p.rank for p in made.parts])
    for part, weight, end in zip(made.parts, made.weights, ends, strict=True):
        assert np.array_equal(found.down[end - part.rank : end], weight * part.down)


@cases(most=2)
def test_slerp_is_shoemakes_formula(made: Case) -> None:
    if len(made.parts) < 2:
        return
    (one, other), t = made.deltas, 0.0
    one, other = (d / abs(w) for d, w in zip((one, other), made.weights, strict=True))
    t = abs(made.weights[1]) / sum(map(abs, made.weights))
    theta = angle(one, other)
    wanted = np.sin((1 - t) * theta) * one + np.sin(t * theta) * other
    near(blended("slerp", made.parts, made.weights), wanted / np.sin(theta), made.size)


def test_slerp_is_straight_along_a_line_and_refuses_three() -> None:
    made = alike(3, 3)
    part = made.parts[0]
    longer = blended("slerp", [part, part.scaled(3.0)], [1.0, 1.0])
    near(longer, 2 * part.dense())
    with pytest.raises(Unsupported, match="karcher"):
        blended("slerp", made.parts, made.weights)


@cases()
def test_karcher_pulls_nowhere_at_its_mean(made: Case) -> None:
    """At the mean, Σ pᵢ log(uᵢ) = 0, which is what makes it the mean; its size is Σ pᵢ‖ΔWᵢ‖."""
    found = blended("karcher", made.parts, made.weights)
    shares = np.abs(made.weights) / np.sum(np.abs(made.weights))
    units = [d / np.linalg.norm(d) for d in made.deltas]
    norms = [np.linalg.norm(d) / abs(w) for d, w in zip(made.deltas, made.weights, strict=True)]
    assert np.linalg.norm(found) == pytest.approx(shares @ norms)
    mean, pull = found / np.linalg.norm(found), np.zeros(made.shape)
    for share, unit in zip(shares, units, strict=True):
        theta = angle(unit, mean)
        tangent = unit - np.cos(theta) * mean
        pull += share * theta * tangent / max(float(np.linalg.norm(tangent)), 1e-300)
    assert np.linalg.norm(pull) < 1e-7  # arccos near 1 has half of the digits


def test_karcher_of_two_of_one_size_is_slerp() -> None:
    made = case(5, ranks=(2, 3))
    parts = [Factors(p.up / p.norm(), p.down) for p in made.parts]
    near(blended("karcher", parts, made.weights), blended("slerp", parts, made.weights))


@cases()
def test_norm_balanced_brings_all_to_one_size(made: Case) -> None:
    norms = [np.linalg.norm(p.dense()) for p in made.parts]
    mean = len(norms) / sum(1 / n for n in norms)
    wanted = sum(d * mean / n for d, n in zip(made.deltas, norms, strict=True))
    near(blended("norm_balanced", made.parts, made.weights), wanted, made.size)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_stock_is_the_papers_ratio(count: int) -> None:
    made = alike(11, count)
    deltas = [p.dense() for p in made.parts]
    pairs = [np.cos(angle(a, b)) for i, a in enumerate(deltas) for b in deltas[:i]]
    cosine = np.mean(pairs) if pairs else 1.0
    ratio = count * cosine / (1 + (count - 1) * cosine)
    assert 0 < ratio <= 1
    near(blended("stock", made.parts, [0.7] * count), ratio * sum(deltas) / count)


def test_stock_stays_at_the_base_where_angles_are_obtuse() -> None:
    made = alike(11, 2)
    assert not blended("stock", made.parts, [1.0, -1.0]).any()


@pytest.mark.parametrize("how", plugins.names("blends"))
def test_nothing_comes_of_nothing(how: str) -> None:
    part = case(2).parts[0]
    empty = Factors(part.up[:, :0], part.down[:0])
    for parts in ([empty], [empty, part.scaled(0.0)]):
        found = blended(how, parts, [0.5] * len(parts))
        assert found.shape == part.shape
        assert not found.any()
