"""The shapes of a base's weights, from its headers: for methods whose tensors do not tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from adaptertools.adapter import Adapter
from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Mismatch, shown
from adaptertools.layouts import known
from adaptertools.layouts.converted import layout
from adaptertools.layouts.direct import Names
from adaptertools.packing import Packed
from adaptertools.verbs._base import find
from adaptertools.verbs._quantise import recognise


@dataclass(frozen=True, slots=True)
class Shapes:
    """A base, as far as its headers tell."""

    base: Checkpoint
    names: Names
    packed: Mapping[str, Packed]

    def of(self, target: str) -> tuple[int, ...] | None:
        """Give the axes of a module's weight as nn.Linear has them; None where it has none."""
        name = self.names.weight(target)
        if name is None:
            return None
        if name in self.packed:
            return self.packed[name].shape
        shape = self.base.tensors[name].shape
        return shape[::-1] if known.stores_in_out(target, self.base.config) else shape

    def needed(self, target: str) -> tuple[int, ...]:
        """Give them, or raise Mismatch."""
        shape = self.of(target)
        if shape is None:
            raise Mismatch(
                f"{shown(self.base.ref)} has no {shown(target)}. Pass the base that the adapters "
                "were trained on as --base."
            )
        return shape

    def peers(self, adapter: Adapter) -> dict[str, tuple[int, int]]:
        """Give (out, in) of every linear layer that an adapter changes."""
        found = {entry.target: self.needed(entry.target) for entry in adapter.entries}
        return {t: (s[0], s[1]) for t, s in found.items() if len(s) == 2}


def shapes(base: str | Path) -> Shapes:
    """Read the headers of a base; of a repository nothing else is fetched.

    Raises what finding and reading it raises.
    """
    held = find(base).read()
    packed = recognise(held) if held.config.get("quantization_config") else {}
    logical = {**held.tensors, **{name: each.logical() for name, each in packed.items()}}
    there = cache(partial(layout, held.config, logical))
    return Shapes(held, Names(held.tensors, known.prefix(held.config), there), packed)
