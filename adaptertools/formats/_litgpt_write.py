"""PEFT's factors as LitGPT's: one rank and alpha, q, k and v in one module, zeros for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Unsupported
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._litgpt_model import Model
from adaptertools.formats._litgpt_names import Part, Place
from adaptertools.formats._modules import Shape, common_scale, modules, shape_for
from adaptertools.formats._side_by_side import Pair, grouped, parted
from adaptertools.tensorfile import dtype_of

if TYPE_CHECKING:
    from adaptertools.update import Array

# By slot of qkv, and by the last names of modules.
FLAGS: Mapping[str, str] = {
    "q": "lora_query", "k": "lora_key", "v": "lora_value", "attn.proj": "lora_projection",
    "mlp": "lora_mlp", "lm_head": "lora_head",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How all of LitGPT's modules are stored, and where each comes from."""

    sources: Mapping[tuple[str, str], tuple[Place, Entry]]  # by LitGPT's module and slot
    parts: Mapping[str, Sequence[Part]]  # of each of LitGPT's modules
    adapter: Adapter
    held: Model
    shape: Shape
    wrote: Wrote
    scale: float
    rank: int = 0
    flags: frozenset[str] = frozenset()


def plan(
    adapter: Adapter, every: Sequence[Place], held: Model, ask: Ask, wrote: Wrote
) -> Plan:  # fmt: skip
    """Decide rank, alpha, dtype and kinds of modules; weights of several are looked into.

    Raises Unsupported for a rank that is too small.
    """
    by_target = {place.target: place for place in every}
    parts: dict[str, list[Part]] = {}
    for part in (part for place in every for part in place.parts):
        parts.setdefault(part.module, []).append(part)
    made = Plan(
        sources={
            (part.module, part.slot): (by_target[entry.target], entry)
            for entry in adapter.entries
            for part in by_target[entry.target].parts
        },
        parts=parts, adapter=adapter, held=held, wrote=Wrote(files=[], tensors=0, nbytes=0),
        shape=Shape(), scale=1.0,
    )  # fmt: skip
    used = {part: rank for place in by_target.values() for part, rank in _used(made, place)}
    rank = max(used.values(), default=1)
    if ask.rank and ask.rank < rank:
        raise Unsupported(
            f"--rank {ask.rank}: modules have rank {rank}, and padding cannot shrink them. "
            f"Run `adaptertools resize ADAPTER --rank {ask.rank} --out DIR` first."
        )
    rank = max(rank, ask.rank or 0)
    scale = common_scale(adapter, rank)
    return replace(
        made, wrote=wrote, scale=scale, rank=rank, flags=frozenset(map(_flag, used)),
        shape=Shape(scale=scale, dtype=_dtype(adapter, ask, scale)),
    )  # fmt: skip


def _used(made: Plan, place: Place) -> Iterator[tuple[Part, int]]:
    """Give the parts of a place that have an update, with their ranks."""
    _, entry = made.sources.get((place.parts[0].module, place.parts[0].slot), (None, None))
    if entry is None:
        return
    for part, pair in zip(place.parts, _pairs(made, place, entry), strict=True):
        if pair is not None:
            yield part, len(pair[0])


def _flag(part: Part) -> str:
    if part.slot:
        return FLAGS[part.slot]
    return next(flag for name, flag in FLAGS.items() if len(name) > 1 and name in part.module)


def _dtype(adapter: Adapter, ask: Ask, scale: float) -> str:
    """Choose one dtype for all: LitGPT takes the first factor's for the whole model's."""
    codes = {spec.dtype for entry in adapter.entries for spec in entry.parts.values()}
    if ask.dtype:
        return ask.dtype
    if "F64" in codes:
        return "F64"
    return shape_for(adapter, ask, scale=scale).dtype or (codes.pop() if len(codes) == 1 else "F32")


def tensors(made: Plan) -> Iterator[tuple[str, Array]]:
    """Give LitGPT's factors, module by module."""
    import numpy as np

    dtype = dtype_of(made.shape.dtype or "F32")
    for module, parts in made.parts.items():
        on = [part for part in parts if _flag(part) in made.flags]
        if not on:
            continue
        found = _of_module(made, on)
        down = np.zeros((made.rank * len(on), on[0].columns), dtype)
        up = np.zeros((sum(part.rows for part in on), made.rank), dtype)
        row = 0
        for at, part in enumerate(on):
            if pair := found.get(part):
                start = at * made.rank
                down[start : start + len(pair[0])] = pair[0]
                up[row : row + part.rows, : len(pair[0])] = pair[1]
            row += part.rows
        yield f"{module}.lora_A", down
        yield f"{module}.lora_B", up


def _of_module(made: Plan, on: Sequence[Part]) -> dict[Part, Pair]:
    """Load what a module of LitGPT comes from, each source once."""
    sources = {made.sources[p.module, p.slot][0].target: made.sources[p.module, p.slot]
               for p in on if (p.module, p.slot) in made.sources}  # fmt: skip
    found: dict[Part, Pair] = {}
    for place, entry in sources.values():
        for part, pair in zip(place.parts, _pairs(made, place, entry), strict=True):
            if pair is not None:
                found[part] = pair
                if len(pair[0]) < made.rank and entry.target not in made.wrote.padded:
                    made.wrote.padded.append(entry.target)
    return found


def _pairs(made: Plan, place: Place, entry: Entry) -> list[Pair | None]:
    """Load an entry, and cut it into the parts of its place."""
    import numpy as np

    one = replace(made.adapter, entries=(entry,))
    module = next(modules(one, made.shape, made.wrote))
    if len(place.parts) == 1:
        return [(module.down, module.up)]
    up = module.up
    if place.turned:
        up = np.empty_like(module.up)
        up[grouped(*made.held.heads)] = module.up
    return parted(module.down, up, [part.rows for part in place.parts])
