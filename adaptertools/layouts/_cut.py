"""The blocks of a planned tensor as pieces: boxes of matrices, with an order where rows moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from adaptertools.layouts._blocks import Axis, Block, Untraceable
from adaptertools.layouts.pieces import Box, Piece

_ONE = Axis(None, range(1))  # the column of a vector
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbours along one axis: where they begin in the block, what they are in the stored one."""

    at: int
    low: int
    high: int
    order: tuple[int, ...] = ()


def pieces(block: Block, shape: Shape, stored: Shape) -> Iterator[Piece]:
    """Cut a block that a stored tensor has in a tensor, given both their shapes.

    Raises Untraceable for what boxes cannot say: axes that changed places other than the last two.
    """
    if _untouched(block, shape, stored):
        yield Piece(tensor=block.tensor)
    elif 0 in (len(shape), len(stored)):
        raise Untraceable
    elif max(len(shape), len(stored)) > 3:
        yield from _matrices(*_flattened(block, shape, stored))
    else:
        yield from _matrices(block, shape, stored)


def _untouched(block: Block, shape: Shape, stored: Shape) -> bool:
    same = all(axis.source == i for i, axis in enumerate(block.axes))
    return shape == stored and same and not block.fixed and all(map(_all, block.axes, stored))


def _all(axis: Axis, length: int) -> bool:
    return isinstance(axis.picks, range) and axis.picks == range(length)


def _flattened(block: Block, shape: Shape, stored: Shape) -> tuple[Block, Shape, Shape]:
    """See a kernel as a matrix: its first axis, and all others, which have to be whole."""
    sources = [axis.source for axis in block.axes]
    if sources != list(range(len(stored))) or block.fixed or shape[1:] != stored[1:]:
        raise Untraceable
    if not all(map(_all, block.axes[1:], stored[1:])):
        raise Untraceable
    width = math.prod(stored[1:])
    axes = (block.axes[0], Axis(1, range(width)))
    matrix = Block(block.tensor, (block.start[0], 0), axes)
    return matrix, (shape[0], width), (stored[0], width)


def _matrices(block: Block, shape: Shape, stored: Shape) -> Iterator[Piece]:
    row, column = block.axes[-2:] if len(shape) > 1 else (*block.axes, _ONE)
    at = block.start[-2:] if len(shape) > 1 else (*block.start, 0)
    up: int | None = max(len(stored) - 2, 0)
    across = len(stored) - 1 if len(stored) > 1 else None
    if turned := not (row.source in (up, None) and column.source in (across, None)):
        up, across = across, up
        if not (row.source in (up, None) and column.source in (across, None)):
            raise Untraceable
    fixed: dict[int | None, int] = dict(block.fixed)
    down = _runs(row if row.source is not None else _index(fixed.get(up, 0)))
    over = _runs(column if column.source is not None else _index(fixed.get(across, 0)))
    if len(over) > 1 or over[0].order:
        raise Untraceable
    whole = Piece(tensor=block.tensor, turned=turned)
    for run in down:
        held = Box((run.low, run.high), (over[0].low, over[0].high))
        held = Box(held.columns, held.rows) if turned else held
        rows, columns = at[0] + run.at, at[1]
        model = Box((rows, rows + run.high - run.low),
                    (columns, columns + over[0].high - over[0].low))  # fmt: skip
        piece = replace(whole, held=held, model=model, order=run.order)
        yield from _indexed(piece, block, shape, stored)


def _indexed(piece: Piece, block: Block, shape: Shape, stored: Shape) -> Iterator[Piece]:
    """Say which matrices of 3-D tensors they are; leave out what is all of a tensor."""
    assert piece.held is not None
    assert piece.model is not None
    every = piece.held == _box(stored) and piece.model == _box(shape)
    pairs = _leading(block, shape, stored)
    if every and not piece.order and _all_of(pairs, shape, stored):
        yield replace(piece, held=None, model=None)
        return
    for model, held in pairs:
        yield replace(
            piece,
            held=_unless_all(replace(piece.held, index=held), stored),
            model=_unless_all(replace(piece.model, index=model), shape),
        )


def _leading(block: Block, shape: Shape, stored: Shape) -> list[tuple[int | None, int | None]]:
    """Pair the matrices of the tensor with those of the stored one; None for a 2-D tensor."""
    held = dict(block.fixed).get(0) if len(stored) == 3 else None
    if len(shape) == 3 and block.axes[0].source is not None:
        if len(stored) != 3 or block.axes[0].source != 0:
            raise Untraceable
        return [(block.start[0] + i, int(n)) for i, n in enumerate(block.axes[0].picks)]
    if len(stored) == 3 and held is None:
        raise Untraceable
    return [(block.start[0] if len(shape) == 3 else None, held)]


def _all_of(pairs: list[tuple[int | None, int | None]], shape: Shape, stored: Shape) -> bool:
    if len(shape) != 3 or len(stored) != 3:
        return len(shape) < 3 and len(stored) < 3
    return shape[0] == stored[0] and pairs == [(i, i) for i in range(shape[0])]


def _box(shape: Shape) -> Box:
    rows, columns = shape[-2:] if len(shape) > 1 else (shape[0], 1)
    return Box((0, rows), (0, columns))


def _unless_all(box: Box, shape: Shape) -> Box | None:
    return None if box == _box(shape) else box


def _index(number: int) -> Axis:
    return Axis(0, range(number, number + 1))


def _runs(axis: Axis) -> list[_Run]:
    """Give one run where the indices are neighbours in whatever order, else one for each gap."""
    picks: Any = axis.picks
    if isinstance(picks, range):
        return [_Run(0, picks.start, picks.stop)]
    if picks.ndim != 1:
        raise Untraceable
    order = [int(n) for n in picks]
    low = min(order)
    moved = tuple(n - low for n in order)
    if sorted(moved) == list(range(len(moved))):
        return [_Run(0, low, low + len(moved), () if sorted(moved) == list(moved) else moved)]
    breaks = [i for i, n in enumerate(order) if i == 0 or n != order[i - 1] + 1]
    ends = [*breaks[1:], len(order)]
    return [_Run(i, order[i], order[i] + j - i) for i, j in zip(breaks, ends, strict=True)]
