"""A cut update does to a block what the whole one does to that part of the whole weight."""

import pickle
from typing import Any

import pytest
import torch

from adaptertools.errors import Unsupported
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.experts import Experts
from adaptertools.update.formed import Formed
from adaptertools.update.lowrank import LowRank
from adaptertools.update.modulated import Modulated
from adaptertools.update.paired import Paired
from adaptertools.update.rows import Rows, Toward
from adaptertools.update.scaled import Scaled
from adaptertools.update.shift import Shift
from adaptertools.update.sliced import sliced
from adaptertools.update.squares import Squares
from adaptertools.update.truncate import Truncate
from adaptertools.update.turned import Turned
from tests.update.weights import Held, close, noise, over, ranks, seeds, sizes, updated

N, M = 12, 10
Span = tuple[int, int] | None


class Twice:
    """Rows that are worked out: twice those of some matrix."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.shape = values, tuple(values.shape)

    def form(self, dtype: str) -> Any:
        return lambda start, stop: 2 * self.values[start:stop].numpy().astype(dtype)


class Turn:
    size = M

    def open(self, dtype: str) -> Any:
        return lambda tile: tile @ noise(20, M, M).numpy()


def low(rank: int = 3) -> LowRank:
    return LowRank(Held(noise(1, N, rank)), Held(noise(2, rank, M)), 0.7)


def dora(by_column: bool) -> Dora:
    return Dora(low(), Held(noise(3, 1, M if by_column else N).abs()), by_column, 0.6)


PRODUCTS: dict[str, Update] = {
    "product": low(), "modulated": Modulated(low()),
    "scaled rows": Scaled(Held(noise(4, N, 1)), 0.6),
    "scaled columns": Scaled(Held(noise(4, 1, M))), "scaled": Scaled(Held(noise(4, 1, 1))),
}  # fmt: skip
BY_ROW: dict[str, Update] = {
    "formed": Formed(Twice(noise(6, N, M)), 0.3),  # type: ignore[arg-type]
    "toward": Toward(Held(noise(7, N, M)), 0.4),
}
ROWS: dict[str, Update] = {
    "dora": dora(False), "rows": Rows((11, 2, 5), Held(noise(8, 3, M)), 0.5),
    "turned": Turned(Turn(), 0.4, Held(noise(9, N, 1))),  # type: ignore[arg-type]
}  # fmt: skip
SPANS: list[Span] = [None, (0, 8), (4, 8), (4, 12)]


def held(weight: torch.Tensor, turned: bool, order: list[int]) -> torch.Tensor:
    """Store a block of the model: its rows where `order` says, and transposed."""
    stored = torch.empty_like(weight)
    stored[order or slice(None)] = weight
    return stored.T.contiguous() if turned else stored


def check(
    update: Update, rows: Span, columns: Span, turned: bool = False, mixed: bool = False
) -> None:
    """Compare the cut update of what is stored with what is stored of the updated whole."""
    weight = noise(10, N, M)
    block = (slice(*(rows or (0, N))), slice(*(columns or (0, M))))
    order = torch.randperm(len(weight[block]), generator=torch.Generator().manual_seed(3)).tolist()
    order = order if mixed else []
    cut = sliced(update, rows, columns, turned=turned, order=order)
    wanted = held(updated(weight, [update])[block], turned, order)
    for step in (4, 1000):
        close(updated(held(weight[block], turned, order), [cut], step), wanted)
    if cut.shape is not None:
        assert cut.shape == tuple(wanted.shape)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("columns", [None, (0, 5), (3, 10)], ids=str)
@pytest.mark.parametrize("rows", SPANS, ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_scalings(
    name: str, rows: Span, columns: Span, turned: bool, mixed: bool
) -> None:
    check(PRODUCTS[name], rows, columns, turned, mixed)


@pytest.mark.parametrize("columns", [None, (0, 5), (3, 10)], ids=str)
@pytest.mark.parametrize("rows", SPANS, ids=str)
@pytest.mark.parametrize("name", BY_ROW)
def test_what_is_read_by_rows(name: str, rows: Span, columns: Span) -> None:
    check(BY_ROW[name], rows, columns)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("rows", SPANS, ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_what_sees_whole_rows(name: str, rows: Span, mixed: bool) -> None:
    check(ROWS[name], rows, None, mixed=mixed)
    if name != "turned":
        check(ROWS[name], rows, (0, M), mixed=mixed)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_dora_is_cut_along_its_norms(turned: bool, mixed: bool) -> None:
    check(dora(False), (4, 12), None, turned, mixed)
    check(dora(True), None, (3, 10), turned, mixed)


@pytest.mark.parametrize("rows", SPANS, ids=str)
def test_pairs_and_biases(rows: Span) -> None:
    check(Paired(Held(noise(5, N, 2)), together=4), rows, (2, 7))
    bias, shift = noise(10, N, 1), Shift(Held(noise(5, N, 1)), 0.5)
    part = slice(*(rows or (0, N)))
    close(updated(bias[part].clone(), [sliced(shift, rows, None)]), updated(bias, [shift])[part])


@over(rank=ranks, seed=seeds, start=sizes, first=sizes)
def test_slices_of_slices_are_slices(rank: int, seed: int, start: int, first: int) -> None:
    update = LowRank(Held(noise(seed, 99, rank)), Held(noise(seed + 1, rank, 99)), 2.0)
    twice = sliced(sliced(update, (start, 90), (1, 80)), (first, first + 5), None, turned=True)
    wanted = (2 * update.up.values @ update.down.values)[start:90, 1:80][first : first + 5].T
    close(updated(torch.zeros(79, 5, dtype=torch.float64), [twice]), wanted)
    assert twice.up.matrix.matrix is update.down  # picked from the file's own factor, once


def test_all_of_it_is_itself_and_reads_nothing() -> None:
    whole = sliced(low(), (0, N), (0, M))
    assert isinstance(whole, LowRank)
    assert isinstance(whole.up, Held)
    assert pickle.loads(pickle.dumps(sliced(low(), (2, 3), None))).shape == (1, M)


REFUSED: dict[str, tuple[Update, dict[str, Any]]] = {
    "whole rows": (dora(False), {"columns": (0, 5)}),
    "whole columns": (dora(True), {"rows": (0, 5)}),
    "turns whole rows": (Turned(Turn()), {"columns": (0, 5)}),  # type: ignore[arg-type]
    "groups of 4": (Paired(Held(noise(5, N, 2)), together=4), {"rows": (2, 6)}),
    "in groups": (Scaled(Held(noise(5, 2, M))), {"rows": (0, 6)}),
    "no transpose": (Shift(Held(noise(5, N, 1)), 0.5), {"turned": True}),
    "row by row": (BY_ROW["toward"], {"turned": True}),
    "replaces rows": (ROWS["rows"], {"turned": True}),
    "a block alone": (Truncate(2), {"rows": (0, 6)}),
    "squares": (Squares(Held(noise(5, 3, 16)), 4, (N, M), 0.5), {"rows": (0, 6)}),
    "experts": (Experts(Held(noise(1, 4, 6)), Held(noise(1, 6, 4)), 3, 2, 1.0, True, False),
                {"rows": (0, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_cut_is_refused(why: str) -> None:
    update, how = REFUSED[why]
    with pytest.raises(Unsupported, match=why):
        sliced(update, how.get("rows"), how.get("columns"), turned=how.get("turned", False))
