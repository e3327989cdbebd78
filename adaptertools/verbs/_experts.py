"""Which parameter each entry of a fused-expert adapter changes: its file does not name it.

PEFT wraps a module once for each of its parameters that target_parameters names, in their order in
the module, so the last is outermost (peft/tuners/tuners_utils.py, `_inject_parameters`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from adaptertools.adapter import Adapter, Entry, Fused
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats._peft_scale import scaled
from adaptertools.methods import _experts
from adaptertools.report import Finding
from adaptertools.verbs._experts_doubts import rank_major, square


class Shapes(Protocol):
    """What is to be known of the base: `layouts.converted.Layout` knows it."""

    def parameters(self, module: str) -> tuple[str, ...]:
        """Give the names of a module's own parameters in their order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Give the shape of a parameter; () where the checkpoint has none."""
        ...

    def is_transposed(self, module: str) -> bool:
        """Tell whether a module of experts holds its weights as (in, out)."""
        ...


def resolve(
    adapter: Adapter, shapes: Callable[[], Shapes | None], packing: str | None = None
) -> tuple[Adapter, list[Finding]]:
    """Give the parameter, rank and scale of every entry that target_parameters is about.

    `packing` is "peft", "expert-major" or None. Gives also what cannot be told for sure. Raises
    Mismatch or Unreadable where the file does not fit the base or itself, Unsupported where it
    cannot be told at all which parameter is meant.
    """
    wanted = adapter.config.get("target_parameters")
    if adapter.method != "LORA" or not wanted or not adapter.entries:
        return adapter, []
    if not all(isinstance(name, str) and name for name in wanted):
        raise Unreadable(f"target_parameters is {shown(wanted)}; names were expected.")
    base = shapes()
    if base is None:
        raise Unsupported(
            f"{shown(adapter.ref)} adapts parameters of a module (target_parameters), and its file "
            "does not say which tensor is whose: that takes the model's code, and transformers "
            "does not know this model. Merge it with PEFT."
        )
    modules: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in adapter.entries:
        modules[entry.target].append(entry)
    named = {target: _named(target, found, wanted, base) for target, found in modules.items()}
    ways = _ways(named, base)
    findings: list[Finding] = []
    entries = [
        _entry(adapter, entry, parameter, ways, base, packing, findings)
        for pairs in named.values()
        for entry, parameter in pairs
    ]
    return replace(adapter, entries=tuple(entries)), _once(findings)


def _named(
    target: str, entries: Sequence[Entry], wanted: Sequence[str], base: Shapes
) -> list[tuple[Entry, str]]:
    """Pair a module's entries with its parameters; "" is for the module's own weight."""
    own = [f"{target}.{name}" for name in base.parameters(target)]
    meant = [name for name in own if any(f".{name}".endswith(f".{each}") for each in wanted)]
    levels = sorted(entry.depth for entry in entries)
    if not meant and levels == [0]:
        return [(entries[0], "")]
    if levels != [*range(len(meant))]:
        raise Mismatch(
            f"{shown(target)}: the adapter stores the updates of {len(entries)} parameters, and "
            f"target_parameters names {len(meant)} of the base's there"
            f"{': ' + first(meant) if meant else ''}. Which tensor is whose cannot be told. "
            "Pass the base that it was trained on as --base, or save the adapter again."
        )
    return [(entry, meant[-1 - entry.depth]) for entry in entries]


def _ways(named: Mapping[str, list[tuple[Entry, str]]], base: Shapes) -> dict[bool, set[bool]]:
    """Give, for modules stored (in, out) and others, the orientations that shapes leave no choice.

    All parameters of one adapter were wrapped by one PEFT, so they hold for square ones too.
    """
    found: dict[bool, set[bool]] = {False: set(), True: set()}
    for target, pairs in named.items():
        for entry, parameter in pairs:
            shape = base.shape(parameter) if parameter else ()
            if _experts.experts_of(shape) > 1:
                fitting = _experts.readings(entry, parameter, shape)
                if len(fitting) == 1:
                    found[base.is_transposed(target)].add(fitting[0])
    return found


def _entry(
    adapter: Adapter, entry: Entry, parameter: str, ways: Mapping[bool, set[bool]], base: Shapes,
    packing: str | None, findings: list[Finding],
) -> Entry:  # fmt: skip
    if not parameter:
        return entry
    shape = base.shape(parameter)
    if not shape:
        raise Mismatch(
            f"{shown(adapter.ref)} changes {shown(parameter)}, which the base does not have. "
            "Pass the base that it was trained on as --base."
        )
    rank, scale = scaled(adapter.config, parameter)
    found = _experts.readings(entry, parameter, shape)
    turned, several = found[0], _experts.experts_of(shape) > 1
    if len(found) > 1:
        in_out = base.is_transposed(entry.target)
        turned = square(adapter, parameter, in_out, ways[in_out], findings)
    by_rank = True
    if several and rank > 1:  # else both packings are the same
        by_rank = rank_major(adapter, parameter, packing, findings)
    fused = Fused(parameter=parameter, shape=shape, turned=turned, rank_major=by_rank)
    return replace(entry, rank=rank, scale=scale, fused=fused)


def _once(findings: list[Finding]) -> list[Finding]:
    return [each for at, each in enumerate(findings) if each not in findings[:at]]
