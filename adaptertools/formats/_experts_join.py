"""LoRAs of single experts as one of all experts, per weight that transformers 5 holds fused.

Gate and up become one update: with the same A the rows of B follow each other; else the ranks do
too, [B_gate 0; 0 B_up]·[A_gate; A_up], as PEFT makes it on loading. Experts without LoRA get zeros.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._experts_names import ExpertNames
from adaptertools.formats._gguf_store import alike
from adaptertools.formats._modules import Module, common_scale, modules, shape_for

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The factors of all experts of one weight: down (E, r, in), up (E, out, r)."""

    module: str  # "model.layers.0.mlp.experts"
    parameter: str  # "gate_up_proj"
    scale: float
    down: Array
    up: Array

    @property
    def rank(self) -> int:
        """The rank of each expert."""
        return int(self.down.shape[1])


Group = Mapping[tuple[int, str], Entry]  # expert and part -> what is stored for it
Groups = Mapping[tuple[str, str], Group]  # module and parameter


def grouped(adapter: Adapter, names: ExpertNames, count: int) -> tuple[tuple[Entry, ...], Groups]:
    """Tell single experts' modules from the others, by names.

    Raises Mismatch for an expert that the base does not have, Unsupported for what PEFT cannot hold
    of fused experts.
    """
    rest: list[Entry] = []
    found: defaultdict[tuple[str, str], dict[tuple[int, str], Entry]] = defaultdict(dict)
    for entry in adapter.entries:
        taken = names.taken(entry.target)
        if taken is None:
            rest.append(entry)
            continue
        module, parameter, number, part = taken
        if number >= count:
            raise Mismatch(
                f"{shown(entry.target)}: the base has {count} experts. Is it another model?"
            )
        if odd := sorted(entry.parts.keys() - {"lora_A", "lora_B"}):
            raise Unsupported(
                f"{shown(entry.target)} has {shown(odd[0])}, which PEFT has not of fused experts. "
                "Use --experts split, or merge it into its base."
            )
        found[module, parameter][number, part] = entry
    order = list(names.parts)
    keys = sorted(found, key=lambda key: (key[0], order.index(key[1])))
    return tuple(rest), {key: found[key] for key in keys}


def stacks(
    adapter: Adapter, groups: Groups, names: ExpertNames, count: int, wrote: Wrote
) -> Iterator[Stack]:
    """Load one weight's experts after the other, of one scale and rank, and note what was done.

    Raises Mismatch where experts differ in shape.
    """
    for (module, parameter), group in groups.items():
        only = replace(adapter, entries=tuple(group.values()))
        scale = common_scale(only)
        shape = shape_for(only, Ask(), scale=scale)
        loaded = dict(zip(group, modules(only, shape, wrote), strict=True))
        parts = names.parts[parameter]
        down, up = _stacked(f"{module}.{parameter}", loaded, parts, count, wrote)
        yield Stack(module=module, parameter=parameter, scale=scale, down=down, up=up)


def _stacked(
    name: str, loaded: Mapping[tuple[int, str], Module], parts: tuple[str, ...], count: int,
    wrote: Wrote,
) -> tuple[Array, Array]:  # fmt: skip
    """Lay experts side by side, each part of a weight in rows and ranks of its own."""
    import numpy as np

    downs, ups = (alike([getattr(m, side) for m in loaded.values()]) for side in ("down", "up"))
    widths, heights = {each.shape[1] for each in downs}, {each.shape[0] for each in ups}
    if len(widths) > 1 or len(heights) > 1:
        raise Mismatch(f"{shown(name)}: its experts' factors differ in shape.")
    (width,), (height,) = widths, heights
    ranks = [max((m.rank for (_, p), m in loaded.items() if p == part), default=0)
             for part in parts]  # fmt: skip
    shared = _shared(loaded, parts)
    rank = max(ranks) if shared else sum(ranks)
    down = np.zeros((count, rank, width), downs[0].dtype)
    up = np.zeros((count, height * len(parts), rank), ups[0].dtype)
    for ((expert, part), module), a, b in zip(loaded.items(), downs, ups, strict=True):
        at = parts.index(part)
        first = 0 if shared else sum(ranks[:at])
        down[expert, first : first + len(a)] = a
        up[expert, at * height : (at + 1) * height, first : first + len(a)] = b
        if len(a) < ranks[at]:
            wrote.padded.append(module.target)
    return down, up


def _shared(loaded: Mapping[tuple[int, str], Module], parts: tuple[str, ...]) -> bool:
    """Tell whether all parts of each expert have the same A, as those of a split weight have."""
    for number in {number for number, _ in loaded}:
        found = [loaded[number, part].down for part in parts if (number, part) in loaded]
        if any(a.tobytes() != found[0].tobytes() for a in found[1:]):
            return False
    return True
