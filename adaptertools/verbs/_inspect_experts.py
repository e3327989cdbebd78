"""How large the change of fused experts is: of each expert, and of a parameter all together.

Which parameter it is takes the base; how large it is does not, as long as the config gives all
parameters of a module one rank and alpha.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import AdapterToolsError, Unreadable, shown
from adaptertools.formats._peft_scale import possible
from adaptertools.methods import Method
from adaptertools.update.lowrank import LowRank
from adaptertools.verbs import _inspect_deep
from adaptertools.verbs._experts_apart import Apart, Expert, apart
from adaptertools.verbs._experts_unnamed import unnamed
from adaptertools.verbs._inspect_deep import Norm, Progress
from adaptertools.verbs._sources_base import Shapes

if TYPE_CHECKING:
    from adaptertools.update import Array


def measure(
    adapter: Adapter, method: Method, base: Shapes | None, progress: Progress
) -> Iterator[Norm]:
    """Measure modules, and parameters, each with all its experts; what cannot be says why."""
    try:
        found = apart(adapter, base, None) if base else unnamed(adapter, None)
    except AdapterToolsError as error:
        named = {e.target: possible(adapter.config, e.target) for e in adapter.entries}
        plain = {
            id(e): e for e in adapter.entries if named[e.target] == (e.target,) and not e.depth
        }
        found = Apart(rest=tuple(plain.values()))
        for entry in adapter.entries:
            if id(entry) not in plain:
                yield Norm(target=entry.target, level=entry.depth, why=str(error))
    config = {**adapter.config, "target_parameters": None}
    modules = replace(adapter, entries=found.rest, config=config)
    yield from _inspect_deep.measure(modules, method, progress)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, expert in found.experts.items():
        groups[expert.group].append(name)
    for names in groups.values():
        entry, expert = found.entries[names[0]], found.experts[names[0]]
        yield _measured(entry, expert, [found.lows[name] for name in names])
        progress(sum(spec.nbytes for spec in entry.parts.values()))


def _measured(entry: Entry, expert: Expert, lows: Sequence[LowRank]) -> Norm:
    """Put the figures of a parameter's experts together; one that does nothing has no rank."""
    import numpy as np

    made = Norm(target=expert.module, level=expert.depth, experts=len(lows))
    try:
        if lows[0].rank > _inspect_deep.WIDEST:
            raise Unreadable(f"{shown(expert.group)} has rank {lows[0].rank}: not looked at.")
        every = [_values(low, expert.group) for low in lows]
    except AdapterToolsError as error:
        return replace(made, why=str(error))
    ranks = [_inspect_deep.ranks(values, max(lows[0].shape)) for values in every]
    alive = [each for each in ranks if each["rank"]]
    stored = tensorfile.read(entry.parts["lora_B"])
    return replace(
        made, norm=float(np.sqrt(sum(float((values**2).sum()) for values in every))),
        spectral=max(each["spectral"] for each in ranks),
        effective_rank=_median(alive, "effective_rank"), stable_rank=_median(alive, "stable_rank"),
        rank=max(each["rank"] for each in ranks), still=len(ranks) - len(alive),
        zeros=float((stored == 0).mean()) if stored.size else 0.0,
    )  # fmt: skip


def _median(alive: Sequence[Mapping[str, float]], key: str) -> float:
    return float(median(each[key] for each in alive)) if alive else 0.0


def _values(low: LowRank, name: str) -> Array:
    """Give the singular values of one expert's change, from thin factorisations."""
    import numpy as np

    with np.errstate(all="ignore"):
        product = low.product("float64")
        left, right = np.linalg.qr(product.up).R, np.linalg.qr(product.down.T).R
        core = left @ right.T
    if not np.isfinite(core).all():
        raise Unreadable(f"{shown(name)} holds NaN or infinity, or is too large to be measured.")
    found: Array = np.linalg.svd(core, compute_uv=False)
    return found
