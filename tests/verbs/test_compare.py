"""Comparisons against the dense updates in float64, and the same update under another gauge."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import Mismatch, Unreadable, Unsupported
from tests import handmade
from tests.handmade import START
from tests.update.weights import over, seeds

Factors = dict[str, tuple[Any, Any]]  # module -> up, down
SHAPES = {"model.layers.0.self_attn.q_proj": (40, 30), "model.layers.1.mlp.up_proj": (70, 30)}


def made(seed: int, rank: int = 3, near: Factors | None = None) -> Factors:
    """Random factors; `near` are others whose row spaces they share in part."""
    random = np.random.default_rng(seed)
    held = {}
    for name, (rows, columns) in SHAPES.items():
        down = random.normal(size=(rank, columns))
        if near:
            down[0] = near[name][1][0]
        held[name] = (random.normal(size=(rows, rank)), down)
    return held


def saved(folder: Path, factors: Factors, dtype: Any = np.float32, **config: Any) -> Path:
    held = {}
    for name, (up, down) in factors.items():
        held[f"{START}{name}.lora_A.weight"] = down.astype(dtype)
        held[f"{START}{name}.lora_B.weight"] = up.astype(dtype)
    rank = max(len(down) for _, down in factors.values())
    ranks = {name: len(down) for name, (_, down) in factors.items()}
    return handmade.adapter(
        folder, held,
        **{"r": rank, "lora_alpha": rank, "rank_pattern": ranks, "alpha_pattern": ranks} | config,
    )  # fmt: skip


def gauged(factors: Factors, seed: int) -> Factors:
    """The same updates in other factors: (up G⁻¹, G down)."""
    random = np.random.default_rng(seed)
    turned = {}
    for name, (up, down) in factors.items():
        gauge = random.normal(size=(len(down), len(down))) + 2 * np.eye(len(down))
        turned[name] = (up @ np.linalg.inv(gauge), gauge @ down)
    return turned


def as_stored(factors: Factors) -> dict[str, Any]:
    """Dense updates of factors that were rounded to float32."""
    single = {n: tuple(x.astype("f4").astype("f8") for x in pair) for n, pair in factors.items()}
    return {n: u @ d for n, (u, d) in single.items()}


def test_every_figure_is_that_of_the_dense_updates(tmp_path: Path) -> None:
    one = made(1)
    sides = [one, made(2, rank=5, near=one), made(3, near=one)]
    found = at.compare([saved(tmp_path / f"{i}", side) for i, side in enumerate(sides)])
    whole = [as_stored(side) for side in sides]
    assert [side.rank for side in found.adapters] == [3, 5, 3]
    for module in found.modules:
        deltas = [each[module.target] for each in whole]
        norms = [np.linalg.norm(d) for d in deltas]
        assert np.allclose(module.norms, norms, rtol=1e-12)
        ratio = np.linalg.norm(sum(deltas)) ** 2 / sum(n**2 for n in norms)
        assert module.energy == pytest.approx(ratio, rel=1e-12)
        for pair in module.pairs:
            _check_pair(pair, deltas[pair.a], deltas[pair.b])
        for delta, effective in zip(deltas, module.effective_ranks, strict=True):
            values = np.linalg.svd(delta, compute_uv=False)
            shares = values[values > 1e-10] / values.sum()
            assert effective == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    flat = [np.concatenate([d.ravel() for d in each.values()]) for each in whole]
    for pair in found.pairs:
        a, b = flat[pair.a], flat[pair.b]
        size = np.linalg.norm(a) * np.linalg.norm(b)
        assert pair.cosine == pytest.approx(a @ b / size, rel=1e-10)
        distance = np.linalg.norm(a - b) / max(np.linalg.norm(a), np.linalg.norm(b))
        assert pair.distance == pytest.approx(distance, rel=1e-10)
        assert pair.conflict is not None
        assert pair.conflict.value == pytest.approx((a * b < 0).mean(), abs=1e-12)
    ratio = np.linalg.norm(sum(flat)) ** 2 / sum(a @ a for a in flat)
    assert found.energy == pytest.approx(ratio, rel=1e-10)


def _check_pair(pair: Any, a: Any, b: Any) -> None:
    assert pair.cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    (ua, sa, va), (ub, sb, vb) = (np.linalg.svd(x, full_matrices=False) for x in (a, b))
    ra, rb = (int((s > 1e-9 * s[0]).sum()) for s in (sa, sb))
    for said, p, q in (
        (pair.left, ua[:, :ra], ub[:, :rb]), (pair.right, va[:ra].T, vb[:rb].T)
    ):  # fmt: skip
        cosines = np.linalg.svd(p.T @ q, compute_uv=False).clip(0, 1)
        assert said.overlap == pytest.approx((cosines**2).sum() / min(ra, rb), abs=1e-10)
        wanted = np.degrees(np.arccos(cosines))
        # arccos itself is off by 1e-8 near zero.
        assert said.smallest == pytest.approx(wanted.min(), abs=2e-6)
        assert said.median == pytest.approx(np.median(wanted), abs=2e-6)
        assert said.largest == pytest.approx(wanted.max(), abs=2e-6)
    assert pair.conflict.value == pytest.approx((a * b < 0).mean(), abs=1e-12)


def test_a_sample_of_signs_holds_the_exact_share(tmp_path: Path) -> None:
    one = made(1)
    paths = [saved(tmp_path / "a", one), saved(tmp_path / "b", made(2, near=one))]
    exact = at.compare(paths).pairs[0].conflict
    assert exact is not None
    assert exact.exact
    inside = 0
    for seed in range(40):
        drawn = at.compare(paths, samples=400, seed=seed).pairs[0].conflict
        assert drawn is not None
        assert not drawn.exact
        assert 0 < drawn.high - drawn.low < 0.1
        inside += drawn.low <= exact.value <= drawn.high
    assert inside >= 35
    assert at.compare(paths, samples=400, seed=7) == at.compare(paths, samples=400, seed=7)


@over(seed=seeds, rank=st.integers(1, 6))
def test_the_same_update_under_another_gauge_is_found(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rank: int
) -> None:
    folder, one = tmp_path_factory.mktemp("gauge"), made(seed % 1000, rank)
    paths = [saved(folder / "a", one), saved(folder / "b", gauged(one, seed % 997))]
    found = at.compare(paths)
    assert found.pairs[0].distance < 1e-4
    if found.pairs[0].distance < 1e-6:  # else the gauge was close to singular
        assert found.pairs[0].likeness == "gauge"
        assert any(f.code == "CMP002" and "other factors" in f.text for f in found.findings)
    assert found.pairs[0].cosine == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    ("times", "likeness", "code"),
    [(1.0, "equal", "CMP002"), (1.5, "near", "CMP003"), (-1.0, "opposite", "CMP004")],
)
def test_near_duplicates(times: float, likeness: str, code: str, tmp_path: Path) -> None:
    one = made(5)
    other = {name: (up * times, down) for name, (up, down) in one.items()}
    found = at.compare([saved(tmp_path / "a", one), saved(tmp_path / "b", other)])
    assert found.pairs[0].likeness == likeness
    assert code in {f.code for f in found.findings}
    assert found.energy == pytest.approx((1 + times) ** 2 / (1 + times**2), abs=1e-7)


def test_coarse_dtypes_are_the_same_within_their_rounding(tmp_path: Path) -> None:
    one = made(6)
    paths = [saved(tmp_path / "a", one), saved(tmp_path / "b", one, dtype=ml_dtypes.bfloat16)]
    assert at.compare(paths).pairs[0].likeness == "gauge"
    paths[1] = saved(tmp_path / "c", one | made(7) | {next(iter(SHAPES)): one[next(iter(SHAPES))]})
    assert at.compare(paths).pairs[0].likeness == ""


def test_scale_belongs_to_the_update(tmp_path: Path) -> None:
    one = made(8)
    half = {name: (up / 2, down) for name, (up, down) in one.items()}
    paths = [
        saved(tmp_path / "a", one),
        saved(tmp_path / "b", half, alpha_pattern={}, lora_alpha=6),
    ]
    assert at.compare(paths).pairs[0].likeness in ("equal", "gauge")


def test_modules_that_one_lacks_count_as_zero(tmp_path: Path) -> None:
    one, two = made(1), made(2)
    first, second = SHAPES
    paths = [saved(tmp_path / "a", one), saved(tmp_path / "b", {first: two[first]})]
    found = at.compare(paths)
    assert found.pairs[0].common == 1
    whole = [as_stored(one), as_stored({first: two[first]})]
    sizes = [np.sqrt(sum(np.linalg.norm(d) ** 2 for d in w.values())) for w in whole]
    dot = (whole[0][first] * whole[1][first]).sum()
    assert found.pairs[0].cosine == pytest.approx(dot / sizes[0] / sizes[1])
    gap = np.linalg.norm(whole[0][first] - whole[1][first]) ** 2
    gap += np.linalg.norm(whole[0][second]) ** 2
    assert found.pairs[0].distance == pytest.approx(np.sqrt(gap) / max(sizes))
    alone = next(m for m in found.modules if m.target == second)
    assert alone.norms[1] is None
    assert (alone.pairs, alone.conflict) == ((), None)
    schema.check("compare", json.loads(json.dumps(found.as_json(), allow_nan=False)))


def test_an_untrained_adapter_has_no_direction(tmp_path: Path) -> None:
    one = made(1)
    zero = {name: (up * 0, down) for name, (up, down) in one.items()}
    found = at.compare([saved(tmp_path / "a", one), saved(tmp_path / "b", zero)])
    assert found.pairs[0].cosine is None
    assert found.pairs[0].likeness == ""
    assert found.adapters[1].rank == 0
    assert "CMP001" in {f.code for f in found.findings}
    schema.check("compare", json.loads(json.dumps(found.as_json(), allow_nan=False)))


def test_order_does_not_matter(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{i}", made(i)) for i in range(3)]
    one, two = at.compare(paths), at.compare(paths[::-1])
    for a, b in combinations(range(3), 2):
        there = next(p for p in one.pairs if (p.a, p.b) == (a, b))
        here = next(p for p in two.pairs if (p.a, p.b) == (2 - b, 2 - a))
        assert there.cosine == pytest.approx(here.cosine, rel=1e-12)
        assert there.conflict == here.conflict


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one = saved(tmp_path / "a", made(1))
    with pytest.raises(Mismatch, match="two or more"):
        at.compare([one])
    with pytest.raises(Mismatch, match="named twice"):
        at.compare([one, tmp_path / "." / "a"])
    other = {"model.layers.9.self_attn.o_proj": (np.ones((4, 2)), np.ones((2, 4)))}
    with pytest.raises(Mismatch, match="in common"):
        at.compare([one, saved(tmp_path / "b", other)])
    odd = {name: (up[:-1], down) for name, (up, down) in made(1).items()}
    with pytest.raises(Mismatch, match=r"40×30 in .* and 39×30 in"):
        at.compare([one, saved(tmp_path / "c", odd)])
    broken = {name: (up * np.nan, down) for name, (up, down) in made(1).items()}
    with pytest.raises(Unreadable, match="NaN"):
        at.compare([one, saved(tmp_path / "d", broken)])
    with pytest.raises(Unsupported, match="DoRA"):
        at.compare([one, saved(tmp_path / "e", made(1), use_dora=True)])


def test_what_is_beside_the_figures_is_said(tmp_path: Path) -> None:
    paths = []
    for i, base in enumerate(("org/one", "org/two")):
        path = saved(tmp_path / f"{i}", made(i), base_model_name_or_path=base)
        head = {f"{START}lm_head.weight": handmade.noise(3, 4, seed=i)}
        handmade.change_tensors(path / "adapter_model.safetensors", lambda t, h=head: t | h)
        paths.append(path)
    codes = {f.code for f in at.compare(paths).findings}
    assert {"CMP007", "CMP008", "CMP009"} <= codes
