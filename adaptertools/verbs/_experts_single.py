"""LoRAs of single experts' own modules, as parts of the weights that transformers 5 holds fused.

For stacks with adapters that have these fused: gate and up of an expert are rows of one weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from adaptertools.adapter import Entry
from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.formats._experts_names import Sizes
from adaptertools.update.joined import joined
from adaptertools.update.lowrank import LowRank
from adaptertools.verbs._experts_apart import Apart, Expert, Unit, gathered

Found = Mapping[str, tuple[Entry, LowRank]]  # part -> what is stored for it


def single(target: str, sizes: Sizes) -> bool:
    """Tell a module that is a part of a fused weight, or a router, in transformers 5."""
    return sizes.names.taken(target) is not None or sizes.names.router(target)


def join(entries: Mapping[str, Entry], lows: Mapping[str, LowRank], sizes: Sizes) -> Apart:
    """Put single experts' updates together, exactly; all of them are `single`.

    Raises Mismatch for an expert that the base has not, or parts of different sizes; Unsupported
    for what PEFT has not of parameters.
    """
    experts: defaultdict[tuple[str, str, int], dict[str, tuple[Entry, LowRank]]] = defaultdict(dict)
    routers = []
    for target, entry in entries.items():
        if odd := sorted(entry.parts.keys() - {"lora_A", "lora_B"}):
            raise Unsupported(
                f"{shown(target)} has {shown(odd[0])}, which PEFT has not of fused experts, as "
                "another adapter has them. Merge these adapters into their base."
            )
        taken = sizes.names.taken(target)
        if taken is None:
            routers.append(_router(entry, lows[target], sizes))
            continue
        module, parameter, number, part = taken
        if number >= sizes.experts:
            raise Mismatch(
                f"{shown(target)}: the base has {sizes.experts} experts. Is it another model?"
            )
        experts[module, parameter, number][part] = entry, lows[target]
    units = [_joined(*at, found, sizes) for at, found in experts.items()]
    return gathered((), [*units, *routers], ())


def _joined(module: str, parameter: str, number: int, found: Found, sizes: Sizes) -> Unit:
    """Give one expert's update of a fused weight, from those of its parts."""
    parts = sizes.names.parts[parameter]
    shapes = {low.shape for _, low in found.values()}
    if len(shapes) > 1:
        raise Mismatch(
            f"{shown(module)}: {' and '.join(sorted(found))} of expert {number} differ in shape. "
            "Check which base this was trained on."
        )
    height = shapes.pop()[0]
    rows = [(parts.index(part) * height, low) for part, (_, low) in sorted(found.items())]
    low = joined(rows, height * len(parts))
    specs = {
        f"{part}.{role}": spec
        for part, (entry, _) in found.items()
        for role, spec in entry.parts.items()
    }
    expert = Expert(
        module=module, parameter=parameter, number=number, count=sizes.experts,
        order=tuple(sizes.names.parts),
    )  # fmt: skip
    return Entry(target=expert.name, parts=specs, scale=1.0, rank=low.rank), expert, low


def _router(entry: Entry, low: LowRank, sizes: Sizes) -> Unit:
    """Give the update of a router's weight, which is no module in transformers 5."""
    module = sizes.names.renamed(entry.target, fused=True)
    return entry, Expert(module=module, parameter="weight", order=("weight",)), low
