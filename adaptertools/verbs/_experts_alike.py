"""Whether adapters of fused experts may be held against one another: same part, same layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.verbs._experts_apart import needs_base
from adaptertools.verbs._sources import Source, source
from adaptertools.verbs._sources_base import Shapes

_SINGLE = re.compile(r"\.experts\.\d+\.")


def sources(adapters: Sequence[Adapter], base: Shapes | None, packing: str | None) -> list[Source]:
    """Take adapters apart; where any has fused experts, single ones are parts of those as well.

    Raises what `source` and `check_alike` raise.
    """
    if packing not in (None, "peft", "expert-major"):
        raise Unsupported(
            f"--expert-packing {shown(packing)} is unknown. Known: peft, expert-major."
        )
    fused = any(a.method == "LORA" and a.config.get("target_parameters") for a in adapters)
    made = [source(adapter, base, packing, fused) for adapter in adapters]
    check_alike(made)
    return made


def check_alike(sources: Sequence[Source]) -> None:
    """Refuse experts of which it is not known that they are the same.

    Raises Unsupported where a base would tell, or where no base does, Mismatch where they differ.
    """
    held = [each for each in sources if each.experts]
    for each in sources if held else ():
        alone = [t for t in each.entries if t not in each.experts and _SINGLE.search(t)]
        if alone:
            raise _apart(each.adapter, held[0].adapter, alone[0])
    for one, two in combinations(held, 2):
        _check_two(one, two)


def _apart(adapter: Adapter, other: Adapter, target: str) -> Unsupported:
    return Unsupported(
        f"{shown(adapter.ref)} adapts experts one by one ({shown(target)}), "
        f"{shown(other.ref)} all of a weight at once (target_parameters). Pass the model as "
        "--base, which says how they are one; where it is given and its family is not known, merge "
        "the adapters instead."
    )


def _check_two(one: Source, two: Source) -> None:
    a, b = one.adapter, two.adapter
    if any(not expert.parameter for expert in (*one.experts.values(), *two.experts.values())):
        names = [frozenset(each.config["target_parameters"]) for each in (a, b)]
        if names[0] != names[1]:
            raise needs_base(a, f"{shown(b.ref)} other ones: which tensor is whose is not known")
        both = [t for t in one.experts if t in two.experts]
        if odd := [t for t in both if one.shape(t) != two.shape(t)]:
            why = f"{shown(b.ref)} holds {shown(one.experts[odd[0]].group)} in another layout"
            raise needs_base(a, why)
        versions = [each.config.get("peft_version") for each in (a, b)]
        square = any(one.shape(t)[0] == one.shape(t)[1] for t in both)
        if square and versions[0] != versions[1]:
            why = f"{shown(b.ref)} is of another PEFT, which may have turned square ones round"
            raise needs_base(a, why)
    counts = [{e.group: e.count for e in each.experts.values()} for each in (one, two)]
    if bad := [g for g in counts[0].keys() & counts[1].keys() if counts[0][g] != counts[1][g]]:
        raise Mismatch(
            f"{first(sorted(bad), 1)}: {shown(a.ref)} has {counts[0][bad[0]]} experts, "
            f"{shown(b.ref)} {counts[1][bad[0]]}. They are not of one base."
        )
