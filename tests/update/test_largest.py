"""The largest components in each of three ways, against LAPACK's full decomposition."""

from collections.abc import Callable

import numpy as np
import pytest

from adaptertools.update import largest as room
from adaptertools.update.largest import largest, top

SPECTRA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "power": lambda j: j**-0.7,
    "flat": lambda j: 1 - j / (3 * len(j)),
    "steps": lambda j: np.where(j <= 8, 1.0, 0.1),
    "low and noise": lambda j: np.where(j <= 6, 1 / j, 1e-7),
    "low": lambda j: np.where(j <= 6, 1 / j, 0.0),
}


def matrix(rows: int, columns: int, spectrum: str) -> tuple[np.ndarray, np.ndarray]:
    random, side = np.random.default_rng(1), min(rows, columns)
    left, right = (np.linalg.qr(random.normal(size=(n, side)))[0] for n in (rows, columns))
    values = SPECTRA[spectrum](np.arange(1, side + 1).astype(float))
    return (left * values) @ right.T, values


def every(values: np.ndarray, total: float) -> int:
    return len(values) + 1


@pytest.fixture(params=["dense", "krylov", "gram"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make matrices of a few hundred rows count as large."""
    if request.param != "dense":
        monkeypatch.setattr(room, "DENSE", 64)
    if request.param == "gram":
        monkeypatch.setattr(room, "_krylov", lambda *args, **more: None)
    return request.param


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(300, 260), (240, 400)])
def test_nearest_of_that_rank(shape: tuple[int, int], spectrum: str, way: str) -> None:
    whole, values = matrix(*shape, spectrum)
    rank = min(6, int((values > 0).sum()))
    found = largest(whole.copy(), 6, every)
    thin, size = found.thin, np.linalg.norm(values)
    assert (thin.rank, thin.shape) == (rank, shape)
    if way != "krylov" or spectrum in ("low", "low and noise"):
        assert found.method == way
    assert abs(found.total - size**2) < 1e-12 * size**2
    assert np.allclose(thin.s, values[:rank], rtol=1e-9)
    for side in (thin.u, thin.vt.T):
        assert np.abs(side.T @ side - np.eye(rank)).max() < 1e-12
    off = np.linalg.norm(whole - (thin.u * thin.s) @ thin.vt)
    assert off - np.linalg.norm(values[rank:]) < 1e-10 * size


def test_a_search_takes_several_passes_where_values_fall_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "DENSE", 64)
    whole, values = matrix(700, 900, "power")
    found = largest(whole, 4, every)
    assert found.method == "krylov"
    off = np.linalg.norm(whole - (found.thin.u * found.thin.s) @ found.thin.vt)
    assert off - np.linalg.norm(values[4:]) < 1e-10 * np.linalg.norm(values)


@pytest.mark.parametrize("shape", [(300, 260), (150, 400)])
def test_full_rank_is_the_matrix(shape: tuple[int, int], way: str) -> None:
    whole, _ = matrix(*shape, "power")
    thin = largest(whole.copy(), None, every).thin
    assert thin.rank == min(shape)
    off = np.linalg.norm(whole - (thin.u * thin.s) @ thin.vt)
    assert off < 1e-13 * np.linalg.norm(whole)


def test_rounding_is_never_a_component(way: str) -> None:
    whole, _ = matrix(300, 260, "low")
    assert largest(whole, None, every).thin.rank == 6
    assert largest(np.zeros((300, 260)), None, every).thin.rank == 0


def test_a_share_of_energy_is_found_by_what_is_kept(way: str) -> None:
    whole, values = matrix(300, 260, "power")

    def half(found: np.ndarray, total: float) -> int:
        return int(np.searchsorted(np.cumsum(found**2), total / 2)) + 1

    rank = largest(whole, None, half).thin.rank
    kept = np.cumsum(values**2) / (values**2).sum()
    assert kept[rank - 1] >= 0.5 > kept[rank - 2]


def test_few_components_are_looked_for_before_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DENSE", 64)
    monkeypatch.setattr(room, "FEW", 8)

    def above(edge: float) -> Callable[[np.ndarray, float], int]:
        def keep(values: np.ndarray, total: float) -> int:
            count = int((values > edge).sum())
            return count + (count == len(values))

        return keep

    whole, _ = matrix(300, 260, "low and noise")
    found = largest(whole, None, above(1e-3))
    assert (found.method, found.thin.rank) == ("krylov", 6)
    found = largest(whole, None, above(1e-8))
    assert (found.method, found.thin.rank) == ("gram", 260)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (1100, 1300)])
def test_top_is_the_dense_svds(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(3).normal(size=shape)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    thin = top(matrix, 7)
    whole = (left[:, :7] * values[:7]) @ right[:7]
    assert np.linalg.norm((thin.u * thin.s) @ thin.vt - whole) < 1e-10 * np.linalg.norm(whole)
