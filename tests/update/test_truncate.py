"""W without its smallest singular components, alone and after other updates."""

import torch

from adaptertools.update.lowrank import LowRank
from adaptertools.update.truncate import Truncate
from tests.update.weights import Held, close, noise, over, seeds, sizes, updated


def dense(weight: torch.Tensor, rank: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    values[len(values) - rank :] = 0
    return left @ torch.diag(values) @ right


@over(rows=sizes, columns=sizes, step=sizes, seed=seeds)
def test_the_smallest_components_go(rows: int, columns: int, step: int, seed: int) -> None:
    base = noise(seed, rows, columns)
    rank = min(rows, columns) // 2
    close(updated(base, [Truncate(rank)], step), dense(base, rank), 1e-10)


def test_after_another_update_only_the_base_is_truncated() -> None:
    base, up, down = noise(0, 12, 9), noise(1, 12, 2), noise(2, 2, 9)
    low = LowRank(Held(up), Held(down), 0.5)
    wanted = dense(base, 3) + 0.5 * up @ down
    close(updated(base, [low, Truncate(3)], 5), wanted, 1e-10)
    close(updated(base, [Truncate(3), low], 5), wanted, 1e-10)


def test_all_components_but_one_may_go() -> None:
    base = noise(0, 12, 9)
    ours = updated(base, [Truncate(8)], 5)
    assert torch.linalg.matrix_rank(ours) == 1
    close(ours, dense(base, 8), 1e-10)
