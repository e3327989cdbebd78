"""Pieces put together again: the parameter that they say a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from adaptertools.layouts.pieces import Box, Piece
from adaptertools.tensorfile import TensorSpec


def specs(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    """Give names and shapes as a header has them."""
    return {n: TensorSpec(n, "F32", tuple(t.shape), "", 0, 0) for n, t in tensors.items()}


def rebuilt(
    pieces: Sequence[Piece], stored: Mapping[str, torch.Tensor], shape: Sequence[int]
) -> torch.Tensor:
    """Put a parameter of this shape together; every element has to come from one piece."""
    if len(pieces) == 1 and pieces[0].plain:
        return stored[pieces[0].tensor]
    out, seen = torch.zeros(tuple(shape)), torch.zeros(tuple(shape), dtype=torch.int64)
    for piece in pieces:
        block = _taken(stored[piece.tensor], piece.held)
        block = block.transpose(-1, -2) if piece.turned else block
        block = block[list(piece.order)] if piece.order else block
        _taken(out, piece.model).copy_(block)
        _taken(seen, piece.model).add_(1)
    assert bool((seen == 1).all()), "pieces overlap or leave gaps"
    return out


def _taken(tensor: torch.Tensor, box: Box | None) -> torch.Tensor:
    """View a block, kernels as matrices and a vector as one column."""
    if box is not None and box.index is not None:
        assert tensor.ndim == 3
        tensor = tensor[box.index]
    if tensor.ndim == 1:
        tensor = tensor[:, None]
    if tensor.ndim > 3:
        tensor = tensor.view(tensor.shape[0], -1)
    if box is None:
        return tensor
    assert tensor.ndim == 2
    return tensor[slice(*box.rows), slice(*box.columns)]
