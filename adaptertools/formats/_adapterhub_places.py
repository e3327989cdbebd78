"""Which layers and modules an adapter's entries are, as AdapterHub's switches turn them on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Unsupported, first, shown
from adaptertools.formats._adapterhub_families import FAMILIES, SWITCHES, Family


@dataclass(frozen=True, slots=True)
class Placed:
    """Entries by layer and module."""

    stem: str  # what is before the number of the layer
    family: Family
    entries: Mapping[tuple[int, str], Entry]
    layers: frozenset[int] = field(default_factory=frozenset)  # those with any

    def of(self, module: str) -> Entry:
        """Give one of a kind, whose shapes are those of all."""
        return next(e for (_, name), e in self.entries.items() if name == module)

    def modules(self) -> list[tuple[str, str]]:
        """Give the kinds of module that any layer has, with their slots."""
        there = {name for _, name in self.entries}
        return [(name, slots) for name, slots in self.family.modules.items() if name in there]


def placed(adapter: Adapter, config: Mapping[str, Any]) -> Placed:
    """Find every entry's layer and module.

    Raises Unsupported for a model that is not in the table, and for modules without a place.
    """
    kind = str(config.get("model_type"))
    family = FAMILIES.get(kind)
    if family is None:
        raise Unsupported(
            f"The base is a {shown(kind)}; where AdapterHub's LoRA goes is known of "
            f"{', '.join(FAMILIES)}. Use --to peft."
        )
    names = "|".join(map(re.escape, family.modules))
    pattern = re.compile(
        rf"^(?P<stem>(?:.+\.)?{family.layer}\.)(?P<at>\d{{1,6}})\.(?P<name>{names})$"
    )
    matches = {entry.target: pattern.match(entry.target) for entry in adapter.entries}
    if odd := [target for target, match in matches.items() if not match]:
        raise Unsupported(
            f"{first(odd, 3)}: AdapterHub's LoRA has no place there in a {shown(kind)}. It has "
            f"{first(family.modules, 9)}. Merge the adapter into its base instead."
        )
    found = {(int(m["at"]), m["name"]): e for e in adapter.entries if (m := matches[e.target])}
    stems = {match["stem"] for match in matches.values() if match}
    if len(stems) > 1 or len(found) < len(adapter.entries):
        raise Unsupported(
            f"{first(sorted(stems))}: AdapterHub's switches mean all of them at once. "
            "Merge the adapter into its base instead."
        )
    return Placed(stems.pop(), family, found, frozenset(at for at, _ in found))


def config(
    base: Mapping[str, Any], there: Placed, slots: Iterable[str], adapter: Adapter, name: str,
    own: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Give adapter_config.json, with `own` of the method."""
    on = sorted(set(slots), key="qkvio".index)
    count = base.get(there.family.count)
    if type(count) is not int or count <= max(there.layers):
        raise Unsupported(
            f"The base's config.json says {there.family.count} {shown(count)}, and layer "
            f"{max(there.layers)} is adapted. Pass the base that it was trained on as --base."
        )
    said = {
        "architecture": "lora", "attn_matrices": [s for s in on if s in "qkv"], "dropout": 0.0,
        "dtype": None, "init_weights_seed": None, "use_dora": False, "use_gating": False,
        "vera_b": None, "vera_d": None, "leave_out": sorted(set(range(count)) - there.layers),
        **dict.fromkeys(SWITCHES.values(), False), **{SWITCHES[s]: True for s in on}, **own,
    }  # fmt: skip
    return {
        "config": said, "hidden_size": base.get("hidden_size", base.get("n_embd")),
        "model_class": next(iter(base.get("architectures") or ()), None),
        "model_name": adapter.base, "model_type": base.get("model_type"), "name": name,
        "version": "adapters.1.3.0",
    }  # fmt: skip
