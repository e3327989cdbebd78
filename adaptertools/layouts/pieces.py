"""Which blocks of which checkpoint tensors hold one parameter of the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A block of one matrix: rows and columns, half open; a vector has one column."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    index: int | None = None  # which matrix of a 3-D tensor, None of a 2-D one

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One block of a checkpoint tensor that is one block of the model's parameter."""

    tensor: str  # the checkpoint's name
    held: Box | None = None  # where in the checkpoint's tensor; None is all of it
    model: Box | None = None  # which block of the parameter; None is all of it
    turned: bool = False  # it is stored transposed (the last two axes)
    # Row i of the model's block (read after `turned`) is row order[i] of the checkpoint's block.
    order: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the tensor is the parameter, under whatever name."""
        return self.held is None and self.model is None and not self.turned and not self.order
