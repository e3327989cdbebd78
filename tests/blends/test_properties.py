"""What each formula keeps, by its own table: what is listed holds, what is not listed does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from adaptertools import plugins
from adaptertools.blends import PROPERTIES, meaning
from adaptertools.errors import Unsupported
from adaptertools.update.factors import Factors
from tests.blends.made import HOWS, Array, Case, alike, blended, cases, near, options, regauged

KEEPS = {how: plugins.load("blends", how).KEEPS for how in HOWS}
Check = Callable[[str, Case], tuple[Array, Array]]


def additive(how: str, made: Case) -> tuple[Array, Array]:
    others = list(np.random.default_rng(made.seed).uniform(0.2, 1.0, len(made.parts)))
    both = [v + 1.7 * w for v, w in zip(made.weights, others, strict=True)]
    one, two = blended(how, made.parts, made.weights), blended(how, made.parts, others)
    return blended(how, made.parts, both), one + 1.7 * two


def multiplies(how: str, made: Case) -> tuple[Array, Array]:
    scaled = [p.scaled(w) for p, w in zip(made.parts, made.weights, strict=True)]
    return blended(how, scaled, [1.0] * len(scaled)), blended(how, made.parts, made.weights)


def homogeneous(how: str, made: Case) -> tuple[Array, Array]:
    larger = [p.scaled(3.7) for p in made.parts]
    return blended(how, larger, made.weights), 3.7 * blended(how, made.parts, made.weights)


def odd(how: str, made: Case) -> tuple[Array, Array]:
    negated = [-w for w in made.weights]
    return blended(how, made.parts, negated), -blended(how, made.parts, made.weights)


def identity(how: str, made: Case) -> tuple[Array, Array]:
    return blended(how, made.parts[:1], [1.0]), made.parts[0].dense()


def halves(how: str, made: Case) -> tuple[Array, Array]:
    part = made.parts[0]
    return blended(how, [part, regauged(part, made.seed)], [0.5, 0.5]), part.dense()


def cancels(how: str, made: Case) -> tuple[Array, Array]:
    part = made.parts[0]
    found = blended(how, [part, regauged(part, made.seed)], [1.0, -1.0])
    return found, np.zeros(part.shape)


def permutation(how: str, made: Case) -> tuple[Array, Array]:
    order = np.roll(np.arange(len(made.parts)), 1)
    parts, weights = [made.parts[i] for i in order], [made.weights[i] for i in order]
    return blended(how, parts, weights), blended(how, made.parts, made.weights)


def associative(how: str, made: Case) -> tuple[Array, Array]:
    module = plugins.load("blends", how)
    start = module.blend(made.parts[:2], made.weights[:2], options(made.shape))
    found = blended(how, [start, *made.parts[2:]], [1.0, *made.weights[2:]])
    return found, blended(how, made.parts, made.weights)


def gauge(how: str, made: Case) -> tuple[Array, Array]:
    others = [regauged(p, made.seed + i) for i, p in enumerate(made.parts)]
    return blended(how, others, made.weights), blended(how, made.parts, made.weights)


def zeros(how: str, made: Case) -> tuple[Array, Array]:
    some = made.parts[0]
    more = [Factors(some.up * 0, some.down), Factors(some.up[:, :0], some.down[:0])]
    found = blended(how, [*made.parts, *more], [*made.weights, 0.7, 1.0])
    return found, blended(how, made.parts, made.weights)


def turns(how: str, made: Case) -> tuple[Array, Array]:
    turned = [p.turned() for p in made.parts]
    return blended(how, turned, made.weights), blended(how, made.parts, made.weights).T


def rotates(how: str, made: Case) -> tuple[Array, Array]:
    dice = np.random.default_rng(made.seed)
    left, right = (np.linalg.qr(dice.normal(size=(k, k)))[0] for k in made.shape)
    turned = [Factors(left @ p.up, p.down @ right) for p in made.parts]
    return blended(how, turned, made.weights), left @ blended(how, made.parts, made.weights) @ right


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        additive, multiplies, homogeneous, odd, identity, halves, cancels, permutation,
        associative, gauge, zeros, turns, rotates,
    )
}  # fmt: skip
HELD = [(how, name) for how in HOWS for name in sorted(KEEPS[how])]
NOT_HELD = [(how, name) for how in HOWS for name in sorted(PROPERTIES.keys() - KEEPS[how])]


def test_every_property_has_its_check() -> None:
    assert CHECKS.keys() == PROPERTIES.keys()


@pytest.mark.parametrize("how", HOWS)
def test_what_a_weight_means_is_said(how: str) -> None:
    made = alike(3, 2)
    one, three = (blended(how, made.parts, [c * w for w in made.weights]) for c in (1, 3))
    assert plugins.load("blends", how).TITLE
    if "shares" in meaning(how.replace("_", "-")):
        near(three, one)
    else:
        near(three, 3 * one)


@pytest.mark.parametrize(("how", "name"), HELD)
def test_what_is_listed_holds(how: str, name: str) -> None:
    @cases(most=2 if how == "slerp" else 3)
    def holds(made: Case) -> None:
        ours, wanted = CHECKS[name](how, made)
        error = np.linalg.norm(ours - wanted)
        # Rounding is that of the parts, and of the result where it is larger.
        assert error <= 1e-10 * max(made.size, *(np.linalg.norm(p.dense()) for p in made.parts))

    holds()


@pytest.mark.parametrize(("how", "name"), NOT_HELD)
def test_what_is_not_listed_does_not(how: str, name: str) -> None:
    made = alike(7, 2 if how == "slerp" and name != "associative" else 3)
    try:
        ours, wanted = CHECKS[name](how, made)
    except Unsupported:
        return  # slerp of three
    assert np.linalg.norm(ours - wanted) > 1e-3 * made.size
