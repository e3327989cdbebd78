"""Factors of all experts of one weight in two matrices, as PEFT's target_parameters has them.

A (E·r, in) holds the experts' rows one after the other. B (out, r·E) holds its columns by rank, in
each the experts (column k·E + e); Unsloth's training before 2026-09 held them by expert (column
e·r + k). Where `turned`, the two hold the product transposed: A is over the outputs, as PEFT up to
0.19.0 has it of weights that are (experts, out, in). Facts from peft/tuners/lora/layer.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptertools.update import Array


def unpacked(
    a: Array, b: Array, experts: int, *, turned: bool = False, expert_major: bool = False
) -> tuple[Array, Array]:
    """Give every expert's factors, down (E, r, in) and up (E, out, r); no value changes.

    Takes any dtype; A's rows and B's columns must be a multiple of `experts`.
    """
    down = a.reshape(experts, a.shape[0] // experts, -1)
    if expert_major:
        up = b.reshape(b.shape[0], experts, -1).transpose(1, 0, 2)
    else:
        up = b.reshape(b.shape[0], -1, experts).transpose(2, 0, 1)
    return _turned(down, up) if turned else (down, up)


def packed(down: Array, up: Array, *, turned: bool = False) -> tuple[Array, Array]:
    """Give A and B of stacked factors (E, r, in) and (E, out, r), columns by rank."""
    if turned:
        down, up = _turned(down, up)
    experts, rank, width = down.shape
    return (
        down.reshape(experts * rank, width),
        up.transpose(1, 2, 0).reshape(up.shape[1], rank * experts),
    )


def _turned(down: Array, up: Array) -> tuple[Array, Array]:
    """Transpose each product: (B·A)ᵀ is Aᵀ·Bᵀ."""
    return up.swapaxes(1, 2), down.swapaxes(1, 2)
