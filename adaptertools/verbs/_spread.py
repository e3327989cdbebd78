"""The modules that an adapter is for whose file names none: its config's targets (Uni-LoRA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.layouts.direct import Names
from adaptertools.patterns import matches_whole


def spread(adapter: Adapter, names: Names, order: Callable[[], tuple[str, ...]]) -> Adapter:
    """Give an entry to every module that the config targets, in the model's order.

    Raises Unsupported for targets that only PEFT can resolve, Mismatch where none is in the base.
    """
    if adapter.entries or not adapter.shared:
        return adapter
    for key in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        if adapter.config.get(key) not in (None, []):
            raise Unsupported(
                f"{shown(adapter.ref)} names no modules in its file, and its config narrows them "
                f"by {key}. Save the adapter again with its indices, or merge it with PEFT."
            )
    found = tuple(
        Entry(target=name, parts={}, scale=1.0, rank=0) for name in _targets(adapter, names, order)
    )
    if not found:
        raise Mismatch(
            f"{shown(adapter.ref)} names no modules in its file, and no module of the base is one "
            f"of its target_modules, {shown(adapter.config.get('target_modules'))}. "
            "Pass the right base as --base."
        )
    return replace(adapter, entries=found)


def _targets(adapter: Adapter, names: Names, order: Callable[[], tuple[str, ...]]) -> Iterator[str]:
    """Give the modules as peft/tuners/tuners_utils.py finds them, `check_target_module_exists`."""
    wanted = adapter.config.get("target_modules")
    if not (isinstance(wanted, str | list) and wanted) or wanted == "all-linear":
        raise Unsupported(
            f"{shown(adapter.ref)} names no modules in its file, and target_modules is "
            f"{shown(wanted)}, which only PEFT can resolve. Save the adapter again with its "
            "indices, or merge it with PEFT."
        )
    kept, seen = adapter.config.get("modules_to_save") or [], set()
    for name in order():
        weight = names.weight(name)
        if weight is None or weight in seen or any(f".{k}." in f".{name}." for k in kept):
            continue
        if (
            matches_whole(wanted, name, "target_modules")
            if isinstance(wanted, str)
            else any(f".{name}".endswith(f".{each}") for each in wanted)
        ):
            seen.add(weight)
            yield name
