"""Experts one by one or fused: an adapter put in the layout that is asked for, before and after.

What is fused is told apart on the way in; what is to be fused is put together last, when all that a
conversion checks has been checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from adaptertools import checkpoint, tensorfile
from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Unreadable, Unsupported, first, shown
from adaptertools.formats import EXTRAS, Ask, Writer, Wrote, _peft_copy
from adaptertools.formats._experts_join import Stack, grouped, stacks
from adaptertools.formats._experts_names import Sizes, expert_names
from adaptertools.formats._experts_read import Known, Pack, check_known, packs
from adaptertools.formats._experts_split import split, without
from adaptertools.formats._experts_write import LAYOUTS, fused
from adaptertools.report import Finding
from adaptertools.verbs._experts import resolve

WAYS = ("split", *LAYOUTS)
PACKINGS = ("peft", "expert-major")


@dataclass(frozen=True, slots=True)
class Fusing:
    """A writer of PEFT's folder that fuses experts first; `held` are those that were fused."""

    layout: str
    sizes: Sizes
    held: tuple[Pack, ...] = ()
    HOLDS = frozenset(EXTRAS) - {"dora", "lora_bias"}
    SUFFIX = ""
    LACKS = "DoRA and biases of lora_B, beside fused experts: what PEFT refuses"
    PROVED = _peft_copy.PROVED

    def write(self, adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
        """Write the folder; scales are folded and ranks padded where experts of one weight differ.

        Raises Mismatch for experts of different shapes, and what PEFT's writer raises.
        """
        names, count = self.sizes.names, self.sizes.experts
        made = Wrote(files=[], tensors=0, nbytes=0)
        rest, groups = grouped(adapter, names, count)
        adapted: defaultdict[str, list[str]] = defaultdict(list)
        for module, parameter in [*((p.module, p.parameter) for p in self.held), *groups]:
            adapted[module].append(parameter)
        others = _only(adapter, rest)
        joined = stacks(adapter, groups, names, count, made)
        with TemporaryDirectory(prefix="adaptertools-") as room:
            both = (each for found in (_stacks(self.held), joined) for each in found)
            whole = fused(adapter, others, both, names, self.layout, Path(room), adapted)
            wrote = _peft_copy.write(whole, draft, ask)
        wrote.folded, wrote.padded = made.folded, made.padded
        wrote.error = max(wrote.error, made.error)
        return wrote


def _only(adapter: Adapter, rest: Sequence[Entry]) -> Adapter:
    """Give the adapter of some of its entries."""
    kept = {entry.target for entry in rest}
    gone = {s.name for e in adapter.entries if e.target not in kept for s in e.parts.values()}
    tensors = {name: spec for name, spec in adapter.tensors.items() if name not in gone}
    return replace(adapter, entries=tuple(rest), tensors=tensors)


def _stacks(held: Sequence[Pack]) -> Iterator[Stack]:
    for pack in held:
        down, up = pack.load()
        yield Stack(
            module=pack.module, parameter=pack.parameter, scale=pack.entry.scale, down=down, up=up
        )


class Arranged(NamedTuple):
    """What to check and convert, what writes it, and what of it cannot be told for sure."""

    adapter: Adapter
    writer: Writer
    doubts: Sequence[Finding] = ()


def arranged(
    adapter: Adapter, to: str, writer: Writer, asked: str | None, packing: str | None,
    base: Path | None,
) -> Arranged:  # fmt: skip
    """Put an adapter's experts in the layout that is asked for, or choose what will.

    `asked` is one of WAYS; None is split, which all formats but PEFT's ask for. Raises Unsupported
    where the base is not given or has no experts that are known, and for a layout that `to` cannot
    hold; Mismatch where factors are not the base's.
    """
    for name, value, known in (("experts", asked, WAYS), ("expert-packing", packing, PACKINGS)):
        if value not in (None, *known):
            raise Unsupported(f"--{name} {shown(value)}: {', '.join(known)} were expected.")
    if asked in LAYOUTS and to != "peft":
        raise Unsupported(f"--experts {asked}: {to} holds experts one by one. Use --to peft.")
    has = adapter.method == "LORA" and bool(adapter.config.get("target_parameters"))
    if not has and asked not in LAYOUTS:
        return Arranged(adapter, writer)
    sizes = _sizes(adapter, base)
    whole, held, doubts = _held(adapter, sizes, packing)
    if asked is not None and asked in LAYOUTS:
        return Arranged(without(whole, held), Fusing(asked, sizes, held), doubts)
    if not sizes.names.splits:
        raise Unsupported(
            f"{shown(adapter.ref)}: this base's experts have no names of their own, so they cannot "
            "be told apart. Use --to peft --experts fused, or merge it into its base."
        )
    return Arranged(split(whole, held, sizes.names, sizes.layers), writer, doubts)


def _held(
    adapter: Adapter, sizes: Sizes, packing: str | None
) -> tuple[Adapter, tuple[Pack, ...], list[Finding]]:
    """Find the fused weights, each told which it is, and read them for NaN."""
    check_known(adapter, sizes)
    whole, doubts = resolve(adapter, lambda: Known(adapter, sizes), packing)
    found = packs(whole, sizes)
    specs = [spec for pack in found for spec in pack.entry.parts.values()]
    if bad := [spec.name for spec in specs if not tensorfile.finite(spec)]:
        raise Unreadable(
            f"{shown(adapter.ref)}: {len(bad)} tensors hold NaN or infinity: {first(bad)}. "
            "The training diverged. Use an earlier checkpoint."
        )
    return whole, found, doubts


def _sizes(adapter: Adapter, base: Path | None) -> Sizes:
    path = base / "config.json" if base and base.is_dir() else base
    if path is None or path.suffix != ".json" or not path.is_file():
        raise Unsupported(
            f"{shown(adapter.ref)}: how many experts there are, and what they are called, is in "
            "the base's config.json. Pass --base with its folder."
        )
    config = checkpoint.read_json(path)
    found = expert_names(config)
    if found is None or not found.experts:
        raise Unsupported(
            f"{shown(path)}: model_type {shown(config.get('model_type')) or 'missing'} is not one "
            "whose experts adaptertools can tell apart. Merge the adapter into its base instead."
        )
    return found
