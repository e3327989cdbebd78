"""The tensors of one module, asked for by role: there, a float, of the shape the method has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.tensorfile import FLOATS, TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array


def part(site: Site, role: str, *shape: int | None, kinds: tuple[str, ...] = ()) -> TensorSpec:
    """Give a tensor of the module; of a shape, where one is named, None for any length.

    Raises Unreadable where the file lacks it, Mismatch where it has another shape, Unsupported
    where it holds no floats (or nothing of `kinds`).
    """
    spec = site.entry.parts.get(role)
    name = shown(site.entry.target)
    if spec is None:
        raise Unreadable(
            f"{name} has no {role}, without which {site.config['peft_type']} is nothing. "
            "The file is incomplete; save the adapter again."
        )
    if spec.dtype not in (kinds or FLOATS):
        wanted = " or ".join(kinds) if kinds else "a float"
        raise Unsupported(f"{shown(spec.name)} is stored as {spec.dtype}; {wanted} was expected.")
    if shape and not _fits(spec.shape, shape):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise Mismatch(
            f"{name}: {role} is {list(spec.shape)}, [{wanted}] was expected, as the weight is "
            f"{list(site.weight.shape)}. Pass the base that it was trained on as --base."
        )
    return spec


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(b in (a, None) for a, b in pairs)


def features(site: Site, conv1d: bool = True) -> tuple[int, int]:
    """Give (out, in) of a linear layer.

    Raises Unsupported for a weight of another number of axes, and for one that is stored (in, out)
    where PEFT's method has no such layer.
    """
    method = site.config["peft_type"]
    if len(site.weight.shape) != 2:
        raise Unsupported(
            f"{shown(site.entry.target)} is {list(site.weight.shape)}; PEFT has {method} for "
            "linear layers only. Check that the base is the one it was trained on."
        )
    if site.transposed and not conv1d:
        raise Unsupported(
            f"{shown(site.entry.target)} is a Conv1D, which PEFT's {method} does not know. "
            "Check that the base is the one it was trained on."
        )
    rows, columns = site.weight.shape
    return (columns, rows) if site.transposed else (rows, columns)


def number(config: Mapping[str, Any], key: str, whole: bool = False) -> float:
    """Give a number of the config; raise Unreadable where there is none."""
    value = config.get(key)
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) < 1e30:
        said = "has no" if value is None else f"gives {shown(value)} as"
        raise Unreadable(
            f"adapter_config.json {said} {key}, a number that {config['peft_type']} cannot be "
            "applied without. Take it from the run that made the adapter."
        )
    return value


@dataclass(frozen=True, slots=True)
class Made:
    """A factor worked out of several tensors in float64 by a function of a module."""

    shape: tuple[int, int]
    make: Callable[..., Array]
    parts: tuple[TensorSpec, ...]
    options: tuple[Any, ...] = ()
    transposed: bool = False

    def read(self, dtype: str) -> Array:
        """Load the tensors, and make it in this dtype."""
        import numpy as np

        arrays = [tensorfile.read(spec).astype(np.float64) for spec in self.parts]
        made = self.make(*arrays, *self.options).astype(dtype)
        return np.ascontiguousarray(made.T if self.transposed else made)

    def turned(self) -> Made:
        """Give its transpose."""
        turn = not self.transposed
        return Made(self.shape[::-1], self.make, self.parts, self.options, turn)
