"""A tensor that is only planned: which elements of which stored tensors it is made of.

Every conversion of transformers moves whole slices, so one block of the result takes from one
stored tensor along each axis by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptertools.update import Array


class Untraceable(Exception):
    """The operation does not move whole slices, as far as is known here."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a block: which indices of which axis of the stored tensor it takes.

    `picks` has several dimensions while a reshape has split the axis, and then it stands for as
    many axes. `source` is None for an axis of length 1 that stacking made.
    """

    source: int | None
    picks: range | Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes that it stands for."""
        return (len(self.picks),) if isinstance(self.picks, range) else self.picks.shape


@dataclass(frozen=True, slots=True)
class Block:
    """Part of a planned tensor: elements of one stored tensor, at `start` on each axis."""

    tensor: str
    start: tuple[int, ...]
    axes: tuple[Axis, ...]
    fixed: tuple[tuple[int, int], ...] = ()  # (axis of the stored tensor, index) that was taken out

    def flat(self, dim: int) -> int:
        """Give a dimension counted from the front; raise Untraceable where one is split."""
        if any(len(axis.shape) != 1 for axis in self.axes):
            raise Untraceable
        return dim % len(self.axes)

    def put(self, dim: int, axis: Axis, start: int) -> Block:
        """Replace one axis."""
        return replace(self, start=_at(self.start, dim, start), axes=_at(self.axes, dim, axis))

    def moved(self, dim: int, by: int) -> Block:
        """Move it along a dimension."""
        dim = self.flat(dim)
        return self.put(dim, self.axes[dim], self.start[dim] + by)

    def stacked(self, dim: int, at: int) -> Block:
        """Add an axis of length 1."""
        dim = self.flat(dim)
        start, axes = list(self.start), list(self.axes)
        start.insert(dim, at)
        axes.insert(dim, Axis(None, range(1)))
        return replace(self, start=tuple(start), axes=tuple(axes))

    def within(self, dim: int, low: int, high: int) -> Block | None:
        """Take what lies between two indices, counted from `low`; None where nothing does."""
        dim = self.flat(dim)
        axis, start = self.axes[dim], self.start[dim]
        picks = axis.picks[max(low - start, 0) : max(high - start, 0)]
        return self.put(dim, Axis(axis.source, picks), max(start - low, 0)) if len(picks) else None

    def squeezed(self, dim: int) -> Block:
        """Take out an axis of length 1."""
        dim = self.flat(dim)
        axis = self.axes[dim]
        gone = () if axis.source is None else ((axis.source, int(axis.picks[0])),)
        return Block(
            self.tensor,
            self.start[:dim] + self.start[dim + 1 :],
            self.axes[:dim] + self.axes[dim + 1 :],
            self.fixed + gone,
        )

    def swapped(self, one: int, two: int) -> Block:
        """Transpose two dimensions."""
        places = [(i, k) for i, axis in enumerate(self.axes) for k in range(len(axis.shape))]
        (i, k), (j, m) = places[one], places[two]
        if i == j:
            picks: Any = self.axes[i].picks
            turned = picks if k == m else picks.swapaxes(k, m)
            return self.put(i, Axis(self.axes[i].source, turned), self.start[i])
        if len(self.axes[i].shape) + len(self.axes[j].shape) != 2:
            raise Untraceable
        first, second = self.axes[i], self.axes[j]
        swapped = self.put(i, second, self.start[j])
        return swapped.put(j, first, self.start[i])

    def reshaped(self, old: Sequence[int], new: Sequence[int]) -> Block:
        """Split axes, or join again those that were split."""
        import numpy as np

        old, new, axes = list(old), list(new), []
        for axis, start in zip(self.axes, self.start, strict=True):
            held = [old.pop(0) for _ in axis.shape]
            wanted = _leading(new, math.prod(held))
            del new[: len(wanted)]
            if wanted == held:
                axes.append(axis)
                continue
            if start or axis.shape != tuple(held):  # other blocks share the axis
                raise Untraceable
            axes.append(Axis(axis.source, np.asarray(axis.picks).reshape(wanted)))
        return replace(self, axes=tuple(axes))


def whole(tensor: str, shape: Sequence[int]) -> Block:
    """Give the block that is all of a stored tensor."""
    axes = tuple(Axis(i, range(n)) for i, n in enumerate(shape))
    return Block(tensor, (0,) * len(axes), axes)


def _at(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _leading(sizes: Sequence[int], product: int) -> list[int]:
    taken: list[int] = []
    while math.prod(taken) < product and len(taken) < len(sizes):
        taken.append(sizes[len(taken)])
    if math.prod(taken) != product:
        raise Untraceable
    return taken
