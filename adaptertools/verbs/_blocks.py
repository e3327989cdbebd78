"""Updates where the base holds a weight otherwise than as one tensor: blocks of one, in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from adaptertools.errors import Unsupported, shown
from adaptertools.layouts.pieces import Box, Piece
from adaptertools.tensorfile import TensorSpec
from adaptertools.update import Update
from adaptertools.update.experts import Experts
from adaptertools.update.sliced import sliced
from adaptertools.update.within import Within

if TYPE_CHECKING:
    from adaptertools.verbs._drafts import Draft


def whole(drafts: Mapping[str, Draft], pieces: Sequence[Piece]) -> TensorSpec:
    """Give the weight that pieces make up, as the model has it; its bytes may lie apart."""
    one = pieces[0]
    source = drafts[one.tensor].source._replace(shape=drafts[one.tensor].shape)
    if len(pieces) > 1 or one.model is not None:
        boxes = [piece.model for piece in pieces if piece.model is not None]
        return source._replace(shape=_around(boxes))
    shape = source.shape if one.held is None else one.held.shape
    return source._replace(shape=(*shape[:-2], shape[-1], shape[-2]) if one.turned else shape)


def _around(boxes: Sequence[Box]) -> tuple[int, ...]:
    rows, columns = (max(b.rows[1] for b in boxes), max(b.columns[1] for b in boxes))
    count = [b.index + 1 for b in boxes if b.index is not None]
    return (max(count), rows, columns) if count else (rows, columns)


def put(draft: Draft, piece: Piece, updates: Iterable[Update]) -> list[str]:
    """Add to a tensor what updates of the whole weight do to one piece; give what does not fit."""
    updates = list(updates)
    matrices = piece.held is not None and piece.held.index is not None
    if matrices or any(isinstance(update, Experts) for update in updates):
        _stack(draft, piece)
    try:
        laid = [_at(draft, piece, _cut(update, piece)) for update in updates]
    except Unsupported as error:
        error.add_note(f"The base's tensor is {shown(piece.tensor)}.")
        raise
    draft.updates += laid
    return [wrong for update in laid for wrong in _misfit(piece.tensor, update, draft)]


def _stack(draft: Draft, piece: Piece) -> None:
    if draft.updates and len(draft.source.shape) == 3:
        raise Unsupported(
            f"{shown(piece.tensor)} holds several matrices; one adapter changes it as a whole, "
            "another each of them. Merge one of the adapters."
        )
    draft.stack()


def _cut(update: Update, piece: Piece) -> Update:
    """Give the part of an update that the piece gets."""
    box = piece.model
    if isinstance(update, Experts):
        if box is None and not piece.order:
            return replace(update, turned=update.turned != piece.turned)
        if box is None or box.index is None:
            raise Unsupported(
                "The base stores experts in another order, or parts of several as one block, and "
                "their update cannot be cut so. Save the base with the model's own tensors "
                "(save_original_format=False), or merge with PEFT."
            )
        update = update.expert(box.index)
    if box is None and not piece.turned and not piece.order:
        return update
    rows, columns = (box.rows, box.columns) if box else (None, None)
    return sliced(update, rows, columns, turned=piece.turned, order=piece.order)


def _at(draft: Draft, piece: Piece, update: Update) -> Update:
    """Put it where the piece lies in the stored matrix."""
    if (box := piece.held) is None:
        return update
    start = (box.index or 0) * (draft.shape[1] if box.index is not None else 0)
    rows = (start + box.rows[0], start + box.rows[1])
    if rows == (0, draft.source.rows) and box.columns == (0, draft.source.columns):
        return update
    return Within(update, rows, box.columns)


def _misfit(name: str, update: Update, draft: Draft) -> list[str]:
    have, shape = (draft.source.rows, draft.source.columns), update.shape
    if isinstance(update, Within):
        have, shape = update.block, update.update.shape
    if shape is None or shape == have:
        return []
    return [
        f"{shown(name)}: the update is {shape[0]}×{shape[1]}, the weight is {have[0]}×{have[1]}"
    ]


def part(spec: TensorSpec, piece: Piece) -> TensorSpec:
    """Give what a piece takes of a tensor that is saved whole: rows that lie together.

    Raises Unsupported where it is anything else.
    """
    if piece.plain or (piece.model is None and not piece.turned and not piece.order):
        return spec
    box, matrices = piece.model, spec.shape[0] if len(spec.shape) == 3 else 1
    width = spec.shape[-1] if len(spec.shape) > 1 else 1
    if box is None or piece.turned or piece.order or box.columns != (0, width):
        raise Unsupported(
            f"{shown(spec.name)} is saved whole, and the base stores it in another order, as "
            f"{shown(piece.tensor)}. Merge it with PEFT, or save the base with the names of the "
            "model (save_original_format=False)."
        )
    row = spec.nbytes // max(prod(spec.shape[:-1] or spec.shape), 1)
    first = (box.index or 0) * (spec.nbytes // matrices) + box.rows[0] * row
    count = box.rows[1] - box.rows[0]
    shape = (count, width) if len(spec.shape) > 1 else (count,)
    return spec._replace(
        shape=shape, start=spec.start + first, stop=spec.start + first + count * row
    )


def matrix(spec: TensorSpec) -> TensorSpec:
    """Give a 3-D tensor as the matrix whose rows are those of all its matrices."""
    return spec._replace(shape=(prod(spec.shape[:-1]), spec.shape[-1]))
