"""An update of a block does to the block what it does to a weight of its own, and nothing else."""

from typing import Any

import pytest
import torch

from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from adaptertools.update.paired import Paired
from adaptertools.update.squares import Squares
from adaptertools.update.truncate import Truncate
from adaptertools.update.within import Within
from tests.update.weights import Held, close, noise, over, seeds, sizes, updated

ROWS, COLUMNS = 12, 8


def low(rank: int = 3) -> LowRank:
    return LowRank(Held(noise(1, ROWS, rank)), Held(noise(2, rank, COLUMNS)), 0.7)


UPDATES: dict[str, Update] = {
    "product": low(),
    "dora": Dora(low(), Held(noise(3, 1, ROWS).abs()), by_column=False, weight=0.6),
    "dora by column": Dora(low(), Held(noise(3, 1, COLUMNS).abs()), by_column=True),
    "paired": Paired(Held(noise(4, ROWS, 2)), together=4),
    "squares": Squares(Held(noise(5, 3, 16)), 4, (ROWS, COLUMNS), 0.5),
    "truncate": Truncate(2),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("place", [(0, 0), (7, 5), (8, 0)], ids=str)
@pytest.mark.parametrize("step", [1, 5, 12, 1000])
def test_a_block_is_a_weight_of_its_own(name: str, place: tuple[int, int], step: int) -> None:
    update, (row, column) = UPDATES[name], place
    weight = noise(6, 31, COLUMNS + column + 3 * (column > 0))
    block = (slice(row, row + ROWS), slice(column, column + COLUMNS))
    within = Within(update, (row, row + ROWS), (column, column + COLUMNS))
    step = -(-step // within.together) * within.together
    wanted = weight.clone()
    wanted[block] = updated(weight[block].clone(), [update])
    close(updated(weight, [within], step), wanted)
    assert within.block == (ROWS, COLUMNS)


@over(step=sizes, seed=seeds)
def test_blocks_of_one_weight_do_not_see_each_other(step: int, seed: int) -> None:
    weight, updates = noise(seed, 30, 8), [Within(low(), (s, s + 12), (0, 8)) for s in (0, 15)]
    dora = Within(UPDATES["dora"], (15, 27), (0, 8))
    wanted = weight.clone()
    wanted[:12] = updated(weight[:12].clone(), [low()])
    wanted[15:27] = updated(weight[15:27].clone(), [low(), UPDATES["dora"]])
    close(updated(weight, [*updates, dora], step), wanted)


def test_rows_outside_keep_every_bit() -> None:
    weight = torch.full((20, 10), -0.0, dtype=torch.float64)
    moved = updated(weight, [Within(low(), (4, 16), (1, 9))], 3)
    outside = torch.ones(20, 10, dtype=torch.bool)
    outside[4:16, 1:9] = False
    assert torch.equal(moved[outside].view(torch.int64), weight[outside].view(torch.int64))


def test_it_reads_no_further_than_its_block() -> None:
    read: list[int] = []

    class Base:
        dtype, shape = "float64", (100, 8)

        def tiles(self) -> Any:
            for row in range(0, 100, 10):
                read.append(row)
                yield row, noise(row, 10, 8).numpy()

        def stored(self, values: Any) -> Any:
            return values

    Within(UPDATES["truncate"], (25, 37), (0, 8)).open(Base())
    assert read == [0, 10, 20, 30]


def test_it_says_where_and_what() -> None:
    said = Within(low(), (4, 16), (1, 9)).describe()
    assert said == {
        "kind": "within", "rows": [4, 16], "columns": [1, 9],
        "update": {"kind": "low-rank", "rank": 3, "scale": 0.7},
    }  # fmt: skip
