"""The 16-bit original of a packed base: where it is, and how far the packed one is from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from adaptertools import checkpoint, hub
from adaptertools.adapter import Adapter
from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Mismatch, NotFound, Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.packing import Packed
from adaptertools.probe_rows import part_of
from adaptertools.tensorfile import TensorSpec
from adaptertools.unpacked import Unpacked
from adaptertools.verbs._options import Options
from adaptertools.verbs._quantise import Wanted, recognise

if TYPE_CHECKING:
    from adaptertools.update import Array

# How people name a repository that holds another one's weights in fewer bits.
_PACKED_NAME = re.compile(r"(?i)(-unsloth)?-bnb-[48]bit$|-[48]bit$|-(nf4|fp4|int8|fp8)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The base that is merged into, and how the output is to be packed."""

    base: Checkpoint
    packed: Mapping[str, Packed]
    wanted: Wanted
    chosen: Sequence[str] | None = None  # the weights to pack, where the base does not say
    said: str = ""


def choose(base: Checkpoint, options: Options, adapters: Sequence[Adapter]) -> Source:
    """Merge into the base as it is stored, or into its 16-bit original.

    Raises what `original` raises, and Unreadable or Unsupported for packings.
    """
    wanted = Wanted(
        quant=options.quant, rounding=options.rounding, double_quant=options.double_quant,
        block_size=options.block_size, seed=options.seed, dtype=options.code,
    )  # fmt: skip
    packed = recognise(base)
    if options.base_weights == "as-stored":
        return Source(base=base, packed=packed, wanted=wanted)
    parent = original(base, packed, options.original, adapters)
    return Source(
        base=parent, packed={}, wanted=settings(packed, wanted), chosen=[*packed],
        said=f"The packed base is off from this original by {distance(parent, packed):.1%} "
        "(median). An adapter that was trained on the packed one never saw the difference.",
    )  # fmt: skip


def original(
    base: Checkpoint, packed: Mapping[str, Packed], given: str | Path | None,
    adapters: Sequence[Adapter],
) -> Checkpoint:  # fmt: skip
    """Open the 16-bit parent of a packed base, and hold its shapes against the base's.

    Raises NotFound where nothing says what the parent is, Mismatch where it is another model.
    """
    if not packed:
        raise Unsupported(
            f"--base-weights original: {shown(base.ref)} is not packed. Leave the option out."
        )
    ref = str(given) if given else _guess(base, adapters)
    parent = checkpoint.read(hub.local(ref, "16-bit original"), ref)
    if recognise(parent):
        raise Unsupported(f"{shown(ref)} is packed as well. Pass the 16-bit model as --original.")
    tensors = parent.tensors
    odd = [n for n, p in packed.items() if n not in tensors or p.shape != _shape(parent, n)]
    if odd:
        raise Mismatch(
            f"{shown(ref)} is not the original of {shown(base.ref)}: {len(odd)} weights are "
            f"missing or of another shape, such as {first(odd, 2)}. Pass the right one as "
            "--original."
        )
    return parent


def _shape(parent: Checkpoint, name: str) -> tuple[int, ...]:
    """Give a weight's shape in the orientation of nn.Linear, which packings store."""
    shape = parent.tensors[name].shape
    return shape[::-1] if _turned(parent, name) else shape


def _turned(parent: Checkpoint, name: str) -> bool:
    return bool(known.stores_in_out(name.removesuffix(".weight"), parent.config))


def _rows(spec: TensorSpec, row: int, count: int, *, turned: bool) -> Array:
    """Read some rows of a weight in the orientation of nn.Linear; a turned one is read whole."""
    whole = part_of(spec, 0, spec.rows).T if turned else None
    return part_of(spec, row, count) if whole is None else whole[row : row + count]


def _guess(base: Checkpoint, adapters: Sequence[Adapter]) -> str:
    names = [base.ref, *(a.base for a in adapters if a.base)]
    found = [short for name in names if (short := _PACKED_NAME.sub("", name)) != name]
    if not found:
        raise NotFound(
            f"Nothing says which 16-bit model {shown(base.ref)} was made from. Pass it as "
            "--original."
        )
    return found[0]


def settings(packed: Mapping[str, Packed], wanted: Wanted) -> Wanted:
    """Ask for the base's own packing where the user asked to keep it."""
    if wanted.quant != "keep":
        return wanted
    codec = next(iter(packed.values())).codec
    if codec.kind not in ("nf4", "fp4", "int8"):
        raise Unsupported(
            f"--base-weights original: {codec.kind} is only written on scales that are there "
            "already. Pass --quant none, or leave the option out."
        )
    return replace(
        wanted, quant=codec.kind,
        double_quant=getattr(codec, "double_quant", None)
        if wanted.double_quant is None else wanted.double_quant,
        block_size=getattr(codec, "block_size", None)
        if wanted.block_size is None else wanted.block_size,
    )  # fmt: skip


def distance(parent: Checkpoint, packed: Mapping[str, Packed]) -> float:
    """Give ‖packed − original‖ / ‖original‖, the median over weights, from some rows of each."""
    import numpy as np

    tensors, found = parent.tensors, []
    for name, weight in packed.items():
        with ExitStack() as stack:
            files = {
                file: stack.enter_context(Path(file).open("rb")).fileno()
                for file in {spec.file for spec in weight.parts.values()}
            }
            held = Unpacked(weight, files, 1 << 16)
            middle = held.shape[0] // 2 // held.step * held.step
            row, codes = next(held.codes([middle]))
            values = held.codec.decode(codes, held.spread(row, len(codes)))
        true = _rows(tensors[name], row, len(codes), turned=_turned(parent, name))
        off, size = np.linalg.norm(values - true), np.linalg.norm(true)
        found.append(float(off) / max(float(size), 1e-30))
    return median(found) if found else 0.0
