"""Planned tensors that torch's functions take: transformers' own conversions run on them.

So what an operation does is what the installed transformers does, and not what is remembered of it.
A door: it may import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from adaptertools.layouts._blocks import Block, Untraceable, whole

Blocks = Sequence[Block]


def planned(tensor: str, shape: Sequence[int]) -> Any:
    """Give a planned tensor that is all of a stored one; its data are never read."""
    import torch

    return _hold(torch.empty(tuple(shape), device="meta"), [whole(tensor, shape)])


def blocks(value: Any) -> Blocks:
    """Give the blocks of a planned tensor; raises Untraceable where it is another thing."""
    if not isinstance(value, _kind()):
        raise Untraceable
    held: Blocks = value.blocks
    return held


def _hold(plain: Any, held: Blocks) -> Any:
    made = plain.as_subclass(_kind())
    made.blocks = held
    return made


@cache
def _kind() -> Any:
    import torch

    class Planned(torch.Tensor):  # type: ignore[misc]
        """A tensor without data that knows where its elements are stored."""

        blocks: Blocks

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                out = func(*args, **(kwargs or {}))  # on meta: shapes, and torch's own checks
                several = list(out) if isinstance(out, tuple | list) else [out]
                if not any(isinstance(value, torch.Tensor) for value in several):
                    return out  # a shape, a size, a number of dimensions
                rule = _RULES.get(func.__name__)
                if rule is None:
                    raise Untraceable
                held = rule(several, *args, **(kwargs or {}))
                made = [_hold(value, of) for value, of in zip(several, held, strict=True)]
            return made[0] if several[0] is out else tuple(made)

    return Planned


def _cat(out: Any, tensors: Any, dim: int = 0) -> list[Blocks]:
    held: list[Block] = []
    at = 0
    for tensor in tensors:
        held += [block.moved(dim, at) for block in blocks(tensor)]
        at += tensor.shape[dim]
    return [held]


def _stack(out: Any, tensors: Any, dim: int = 0) -> list[Blocks]:
    dim %= out[0].ndim
    return [[b.stacked(dim, at) for at, tensor in enumerate(tensors) for b in blocks(tensor)]]


def _parts(out: Any, tensor: Any, size: Any = None, dim: int = 0) -> list[Blocks]:
    """Cut where torch did: chunk and split differ in how they say it."""
    held: list[Blocks] = []
    at = 0
    for part in out:
        stop = at + part.shape[dim]
        held.append([b for block in blocks(tensor) if (b := block.within(dim, at, stop))])
        at = stop
    return held


def _unbind(out: Any, tensor: Any, dim: int = 0) -> list[Blocks]:
    cut = _parts([tensor.narrow(dim, i, 1) for i in range(len(out))], tensor, dim=dim)
    return [[block.squeezed(dim) for block in held] for held in cut]


def _transpose(out: Any, tensor: Any, dim0: int, dim1: int) -> list[Blocks]:
    one, two = dim0 % tensor.ndim, dim1 % tensor.ndim
    return [[block.swapped(one, two) for block in blocks(tensor)]]


def _squeeze(out: Any, tensor: Any, dim: int | None = None) -> list[Blocks]:
    held, shape = blocks(tensor), tensor.shape
    for at in reversed(range(len(shape)) if dim is None else [dim % len(shape)]):
        held = [block.squeezed(at) for block in held] if shape[at] == 1 else held
    return [held]


def _reshape(out: Any, tensor: Any, *shape: Any) -> list[Blocks]:
    return [[block.reshaped(tensor.shape, out[0].shape) for block in blocks(tensor)]]


def _same(out: Any, tensor: Any, *_: Any, **__: Any) -> list[Blocks]:
    return [blocks(tensor)]


_RULES: dict[str, Callable[..., list[Blocks]]] = {
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "chunk": _parts,
    "split": _parts,
    "unbind": _unbind,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "view": _reshape,
    "contiguous": _same,
    "clone": _same,
}
