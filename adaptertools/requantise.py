"""Round a changed weight back to its grid so that the change survives.

A weight that comes from a grid lies exactly on it: nearest takes every change back that is smaller
than half a step. Stochastic rounding keeps it in the mean. Feedback also keeps the noise out of the
directions that the adapter reads: with u_j = √mu · V_j (V the adapter's row space, orthonormal),
the error E = Q − T minimises ‖E‖² + ‖E Uᵀ‖² column by column, as GPTQ (arXiv:2210.17323) does for
the Hessian I + mu·VVᵀ. Columns are rounded in groups; what a group's errors sum to in that space,
c = Σ E_j u_j, moves the targets of the columns to come: t_j = T_j − c·M·u_j, with
M = (I + Σ_{i ≥ group's first} u_i u_iᵀ)⁻¹.

Where the change is not tiny beside the steps and the weight is wide, the odds are sharpened and mu
is large: single codes move less often, and as ⟨E, D⟩ = ⟨EV, DV⟩ for D = (DV)Vᵀ, the feedback keeps
the change whole all the same. Measured against plain odds and mu 10, at 0.8 and 2.3 % of 512×4096
Gaussian weights: as much is kept within 1.3 %, noise is 14 % smaller, the error in V's directions
by 50 to 65 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptertools.grid import Grid
from adaptertools.packing import Table

if TYPE_CHECKING:
    from adaptertools.update import Array

MU = 10.0  # weight of the adapter's directions against all others
# With plain odds in narrow weights, where few columns make feedback dear; with sharpened ones.
MU_NARROW, MU_SHARP = 1.0, 1000.0
WIDE = 64  # columns for each direction from which there is room for sharpened odds
SHARP = 0.01  # mean change in steps from which the odds are sharpened
_TINY = 1e-38  # scales below have no finite inverse in float32
GROUPS = (8, 16)  # columns that are rounded together: a 64th of them, within these bounds


def sharpened(
    table: Table, mean_scale: float, norms: Sequence[float | None], basis: Array, rows: int
) -> bool:
    """Tell whether a change is large enough beside the grid's steps for sharpened odds.

    `norms` are those of the updates; None where one is no product, whose directions do not hold all
    of the change. In narrow weights strong feedback costs more noise elsewhere than it saves.
    """
    known = [norm for norm in norms if norm is not None]
    columns, rank = basis.shape
    size = rows * columns
    if len(known) < len(norms) or not size or columns < WIDE * rank:
        return False
    step = (table.values[-1] - table.values[0]) / (len(table.values) - 1) * mean_scale
    # The mean of |x| is 0.8 for a normal variable.
    return bool(0.8 * sum(known) >= SHARP * step * size**0.5)


class Dice:
    """Random bits for every element of a tensor, the same however it is cut into tiles."""

    def __init__(self, tensor: str, seed: int, columns: int) -> None:
        """Take the tensor's name and the user's seed."""
        digest = hashlib.sha256(f"{seed}\0{tensor}".encode()).digest()
        self.key = int.from_bytes(digest[:16], "little")
        self.columns = columns
        self.blocks = -(-columns // 16)  # Philox gives 16 × 16 bits for each count

    def roll(self, row: int, rows: int) -> Array:
        """Give uint16 (rows, columns) for these rows."""
        import numpy as np

        dice = np.random.Philox(key=self.key, counter=[row * self.blocks, 0, 0, 0])
        bits = dice.random_raw(rows * self.blocks * 4).view(np.uint16)
        found: Array = bits.reshape(rows, -1)[:, : self.columns]
        return found


class Feedback:
    """What an error in one group of columns moves in the columns to come."""

    def __init__(self, basis: Array, mu: float = MU, group: int = 0, sharp: bool = False) -> None:
        """Take the row space: (columns, rank), orthonormal columns."""
        import numpy as np

        self.sharp = sharp
        u = np.sqrt(mu) * basis.astype(np.float64)
        rank = u.shape[1]
        group = group or min(max(len(u) // 64, GROUPS[0]), GROUPS[1])
        firsts = range(0, len(u), group)
        inverse = np.eye(rank)
        self.groups: list[tuple[slice, Array, Array]] = []
        for first in reversed(firsts):
            columns = slice(first, min(first + group, len(u)))
            inverse = inverse + u[columns].T @ u[columns]
            back = np.linalg.solve(inverse, u[columns].T)  # M·u_j, (rank, group)
            self.groups.append((columns, back.astype(np.float32), u[columns].astype(np.float32)))
        self.groups.reverse()
        self.rank = rank


def inverted(spread: Array, shape: tuple[int, ...]) -> Array:
    """Give 1 / scale for every element, float32; 0 where a scale is too small to hold anything."""
    import numpy as np

    scale = np.broadcast_to(spread, shape)
    inverse: Array = np.divide(1, scale, out=np.zeros(shape, np.float32), where=scale > _TINY)
    return inverse


class Rounder:
    """Rounds the tiles of one tensor to the ranks of a grid."""

    def __init__(
        self, grid: Grid, rounding: str, dice: Dice | None, feedback: Feedback | None
    ) -> None:
        """Take the grid, `nearest`, `stochastic` or `adapter`, and what the last two need."""
        self.grid, self.rounding, self.dice, self.feedback = grid, rounding, dice, feedback

    def ranks(self, start: Array, moved: Array, spread: Array, row: int) -> Array:
        """Round start · spread + moved to ranks, uint8 (rows, columns).

        `start` is float32, before the scale: the values on the grid that the tile had, or zeros;
        `moved` is the change in units of the weight, `spread` the scale of every element. Where
        `start` lies on the grid and nothing moves, nothing moves.
        """
        import numpy as np

        scale, inverse = np.broadcast_to(spread, moved.shape), inverted(spread, moved.shape)
        if self.rounding == "nearest" or self.dice is None:
            return self.grid.nearest(start + moved * inverse)
        bits = self.dice.roll(row, len(moved))
        if self.feedback is None:
            return self.grid.stochastic(start + moved * inverse, bits)
        ranks = np.empty(moved.shape, np.uint8)
        carried = np.zeros((len(moved), self.feedback.rank), np.float32)
        for columns, back, u in self.feedback.groups:
            change = moved[:, columns]
            wanted = change - carried @ back
            wanted *= inverse[:, columns]
            wanted += start[:, columns]
            found = self.grid.stochastic(wanted, bits[:, columns], self.feedback.sharp)
            error = self.grid.values.take(found)
            error -= start[:, columns]
            error *= scale[:, columns]
            error -= change
            carried += error @ u
            ranks[:, columns] = found
        return ranks
