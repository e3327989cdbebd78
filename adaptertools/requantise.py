"""Round a changed weight back to its grid so that the change survives.

A weight that comes from a grid lies exactly on it: nearest takes every change D back that is
smaller than half a step. Stochastic rounding keeps it in the mean, but every element that may move
adds noise, |D| times the step. Three things are done about the noise E = Q − W − D.

- Feedback. The columns of B, where an adapter writes, hold what training saw of the gradients of
  the outputs: of a trained encoder 18 to 30 % of their energy in 16 of 384 directions, while the
  rows of A hold no more of the activations than chance. So with u_i = √mu · U_i (U the strongest
  directions that D writes, orthonormal), ‖E‖² + ‖UᵀE‖² is made small row by row, as GPTQ
  (arXiv:2210.17323) does column by column for another Hessian. Rows are rounded in groups; what
  their errors sum to, c = Σ u_iᵀ E_i, moves the rows to come by −u_i · M · c, with
  M = (I + Σ_{i ≥ group's first} u_iᵀ u_i)⁻¹.
- Only odds are moved. On a grid, pushing an element that has no change of its own costs as much
  noise as a change would. So each takes of the push in proportion to the room that its change
  makes, r = min(|T|, half a step): t = T − r · clip(push / typical r, −1, 1). Noise stays as it
  was, and nothing moves against its change. For fresh scales a push ends at half a step.
- Few and larger. Elements whose change is below the root mean square stay as they are, and the
  rest of their row takes over (T), as for elements at the grid's end: a fifth fewer move. What
  that leaves out is fed back like any error. Where changes are not small beside the steps, fewer
  are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.grid import Grid
from adaptertools.packing import Table

if TYPE_CHECKING:
    from adaptertools.spaces import Spaces
    from adaptertools.update import Array

MU = 10.0  # weight of the directions that the adapter writes, against all others
GROUPS = (8, 16)  # rows that are rounded together: a 64th of them, within these bounds
SPARED = 0.15  # changes in steps, root mean square, up to which all below that mean are left out
_SMALL = 1.25  # times the mean of its row or column: what is left out there at most
_MOST = 2.0  # times its own change: what an element takes over from its row at most
_TYPICAL = 0.7  # mean of |T| over root mean square of D: 0.8 where none is left out, else 0.6
_TINY = 1e-38  # scales below have no finite inverse in float32


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


def half_step(table: Table) -> float:
    """Give half the mean step of a grid, before the scale: what a push moves an element at most."""
    return (table.values[-1] - table.values[0]) / (len(table.values) - 1) / 2


@dataclass(frozen=True, slots=True)
class Focus:
    """Which elements of a change D are to carry it, and how large D is."""

    rows: Array  # below which an element is left out, for its row: (rows, 1)
    columns: Array  # and for its column: (1, columns)
    typical: float  # mean room for a push

    @classmethod
    def of(cls, change: Spaces, table: Table, mean_scale: float) -> Focus:
        """Choose by how large the change is beside the grid's steps."""
        import numpy as np

        size, room = change.size, half_step(table) * mean_scale
        level = min(1.0, SPARED * 2 * room / size) if size else 0.0
        rows = level * np.minimum(_SMALL * change.rows, np.float32(size))
        columns = level * _SMALL * change.columns
        return cls(rows[:, None], columns[None], max(min(_TYPICAL * size, room / 2), _TINY))

    def carried(self, moved: Array, lowest: Array, highest: Array, row: int) -> Array:
        """Give T for these rows of D: zero where D is small, each row's ⟨T, D⟩ as ⟨D, D⟩ is.

        No element moves further than from `lowest` to `highest`: to the ends of the grid.
        """
        import numpy as np

        limit = np.minimum(self.rows[row : row + len(moved)], self.columns)
        kept: Array = np.where(np.abs(moved) > limit, moved, np.float32(0))
        np.clip(kept, lowest, highest, out=kept)
        whole = np.einsum("ij,ij->i", moved, moved)
        held = np.einsum("ij,ij->i", kept, moved)
        enough = held * _MOST > whole  # a row of equal changes has none that stand out
        kept *= np.divide(whole, held, out=np.ones_like(whole), where=enough)[:, None]
        return np.where(enough[:, None], kept, moved)


class Feedback:
    """What errors in one group of rows move in the rows to come, while the tiles go by."""

    def __init__(
        self, writes: Array, half: float, focus: Focus | None = None, mu: float = MU, group: int = 0
    ) -> None:
        """Take the directions that the change writes, (rows, rank) with orthonormal columns.

        `half` is that of `half_step`. Without a focus, for weights that lie on no grid, a push is
        shared out evenly, as far as half a step.
        """
        import numpy as np

        u = np.sqrt(mu) * writes.astype(np.float64)
        self.group = group or min(max(len(u) // 64, GROUPS[0]), GROUPS[1])
        self.half, self.focus = np.float32(half), focus
        self.u, self.back = u.astype(np.float32), np.empty(u.shape, np.float32)
        inverse = np.eye(u.shape[1])
        for first in reversed(range(0, len(u), self.group)):
            rows = slice(first, first + self.group)
            inverse = inverse + u[rows].T @ u[rows]
            self.back[rows] = np.linalg.solve(inverse, u[rows].T).T  # u_i·M
        self.carried: Array | None = None  # c: (rank, columns)
        self.pending: Array | None = None  # what the group that is being rounded adds to it

    def parts(self, row: int, rows: int) -> Iterator[slice]:
        """Give these rows group by group, counted from the first of them."""
        first = row
        while first < row + rows:
            last = min(first - first % self.group + self.group, row + rows)
            yield slice(first - row, last - row)
            first = last

    def wanted(self, target: Array, scale: Array, row: int) -> Array:
        """Give what the rows of a group (or a part of one) are to move by."""
        import numpy as np

        if self.carried is None:
            self.carried, self.pending = np.zeros((2, self.u.shape[1], target.shape[1]), np.float32)
        push: Array = self.back[row : row + len(target)] @ self.carried
        room = scale * self.half
        if self.focus is None:
            np.clip(push, -room, room, out=push)
        else:
            push *= np.float32(1 / self.focus.typical)
            np.clip(push, -1, 1, out=push)
            push *= np.minimum(room, np.abs(target), out=room)
        return np.subtract(target, push, out=push)

    def learn(self, error: Array, row: int) -> None:
        """Take the errors that these rows came to."""
        assert self.carried is not None
        assert self.pending is not None
        last = row + len(error)
        self.pending += self.u[row:last].T @ error
        if last % self.group == 0 or last == len(self.u):
            self.carried += self.pending
            self.pending[:] = 0


def inverted(spread: Array, shape: tuple[int, ...]) -> Array:
    """Give 1 / scale for every element, float32; 0 where a scale is too small to hold anything."""
    import numpy as np

    scale = np.broadcast_to(spread, shape)
    inverse: Array = np.divide(1, scale, out=np.zeros(shape, np.float32), where=scale > _TINY)
    return inverse


class Rounder:
    """Rounds the tiles of one tensor to the ranks of a grid, in their order."""

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
        ranks, target = np.empty(moved.shape, np.uint8), moved
        if (focus := self.feedback.focus) is not None:
            low, high = self.grid.low, self.grid.high
            target = focus.carried(moved, (low - start) * scale, (high - start) * scale, row)
        for part in self.feedback.parts(row, len(moved)):
            wanted = self.feedback.wanted(target[part], scale[part], row + part.start)
            wanted *= inverse[part]
            wanted += start[part]
            found = self.grid.stochastic(wanted, bits[part])
            error = self.grid.values.take(found)
            error -= start[part]
            error *= scale[part]
            error -= moved[part]
            self.feedback.learn(error, row + part.start)
            ranks[part] = found
        return ranks
