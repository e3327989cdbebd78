"""Fused experts as a LoRA of each expert's own modules, under the names that were usual before.

The parts of a fused weight (gate and up) are rows of B. Each keeps A, and its rank; but where the
ranks are two blocks, of which each part uses one, each part gets its own again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, shown
from adaptertools.formats._experts_names import ExpertNames
from adaptertools.formats._experts_patterns import alpha_of, patterns
from adaptertools.formats._experts_read import Pack
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key

if TYPE_CHECKING:
    from adaptertools.update import Array


_LIMITS = ("layers_to_transform", "layers_pattern", "exclude_modules")


def without(adapter: Adapter, packs: Sequence[Pack]) -> Adapter:
    """Give what else there is."""
    gone = {id(pack.entry) for pack in packs}
    names = {spec.name for pack in packs for spec in pack.entry.parts.values()}
    kept = [replace(e, fused=None) for e in adapter.entries if id(e) not in gone]
    return replace(
        adapter, entries=tuple(kept),
        tensors={name: spec for name, spec in adapter.tensors.items() if name not in names},
        config={**adapter.config, "target_parameters": None},
    )  # fmt: skip


def split(
    adapter: Adapter, packs: Sequence[Pack], names: ExpertNames, layers: int
) -> Adapter:  # fmt: skip
    """Write all modules out, each expert's by itself, and the others as they are.

    `layers` is how many the base has: where all are adapted, modules are targeted by short names.
    Raises Mismatch where gate and up are not of one size.
    """
    rest = without(adapter, packs)
    cuts = {pack.name: _ranges(pack, names) for pack in packs}
    sizes = {names.renamed(e.target, fused=False): (e.rank, e.scale) for e in rest.entries}
    sizes |= {
        names.single(pack.module, expert, part): (stop - start, pack.entry.scale)
        for pack in packs
        for part, (start, stop) in cuts[pack.name].items()
        for expert in range(pack.experts)
    }

    def tensors() -> Iterator[tuple[str, Array]]:
        for name, spec in rest.tensors.items():
            yield names.renamed(name, fused=False), tensorfile.read(spec)
        for pack in packs:
            yield from _modules(pack, names, cuts[pack.name])

    config = _config(adapter, rest, packs, names, sizes, layers)
    return spooled(config, tensors(), Path(adapter.folder), adapter.ref, adapter.format)


def _ranges(pack: Pack, names: ExpertNames) -> dict[str, tuple[int, int]]:
    """Say which ranks each part of a weight uses; all, unless they are two blocks."""
    parts = names.parts[pack.parameter]
    every = dict.fromkeys(parts, (0, pack.entry.rank))
    if len(parts) == 1:
        return every
    _, up = pack.load()
    if up.shape[1] % 2:
        raise Mismatch(f"{shown(pack.name)}: gate and up are {up.shape[1]} rows, an odd number.")
    half = up.shape[1] // 2
    one, two = (_used(up[:, rows]) for rows in (slice(0, half), slice(half, None)))
    if not one or not two or one[-1] >= two[0]:
        return every
    middle = pack.entry.rank // 2 if one[-1] < pack.entry.rank // 2 <= two[0] else two[0]
    return dict(zip(parts, ((0, middle), (middle, pack.entry.rank)), strict=True))


def _used(up: Array) -> list[int]:
    """Give the ranks whose column is not zero in every expert."""
    found: list[int] = (up != 0).any(axis=(0, 1)).nonzero()[0].tolist()
    return found


def _modules(
    pack: Pack, names: ExpertNames, cuts: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[str, Array]]:
    down, up = pack.load()
    height = up.shape[1] // len(cuts)
    for at, (part, (start, stop)) in enumerate(cuts.items()):
        for expert in range(pack.experts):
            target = names.single(pack.module, expert, part)
            yield key(target, "lora_A"), down[expert, start:stop]
            yield key(target, "lora_B"), up[expert, at * height : (at + 1) * height, start:stop]


def _config(
    adapter: Adapter, rest: Adapter, packs: Sequence[Pack], names: ExpertNames,
    sizes: Mapping[str, tuple[int, float]], layers: int,
) -> dict[str, Any]:  # fmt: skip
    """Say rank and alpha of everything, and which modules it is."""
    ranks = patterns({name: rank for name, (rank, _) in sizes.items()})
    alphas = patterns({n: alpha_of(scale, rank) for n, (rank, scale) in sizes.items()})
    gone = ("lora_B_layout", *_LIMITS)
    kept = {key: value for key, value in rest.config.items() if key not in gone}
    return kept | {
        "target_modules": _targets(adapter, rest, packs, names, layers) or sorted(sizes),
        "r": ranks.usual, "rank_pattern": ranks.others, "lora_alpha": alphas.usual,
        "alpha_pattern": alphas.others, "target_parameters": None, "lora_dropout": 0.0,
        # PEFT 0.21 fuses gate and up on loading with twice the alpha: √2 too much with rsLoRA.
        "use_rslora": False,
    }  # fmt: skip


def _targets(
    adapter: Adapter, rest: Adapter, packs: Sequence[Pack], names: ExpertNames, layers: int
) -> list[str]:
    """Name each expert's modules once where every layer has them; empty where one has not."""
    modules = Counter(pack.parameter for pack in packs)
    listed = adapter.config.get("target_modules") or []
    limited = any(adapter.config.get(key) for key in _LIMITS)
    if limited or not isinstance(listed, list) or set(modules.values()) != {layers}:
        return []
    routers = [e.target for e in rest.entries if names.router(e.target)]
    ends = {
        f"experts.{expert}.{part}"
        for parameter in modules
        for part in names.parts[parameter]
        for expert in range(packs[0].experts)
    }
    ends |= {".".join(names.renamed(t, fused=False).split(".")[-2:]) for t in routers}
    found = sorted({*listed, *ends})
    others = [names.renamed(entry.target, fused=False) for entry in rest.entries]
    # A weight that target_parameters named may be of a module that nothing else names.
    return found if all(any(f".{t}".endswith(f".{n}") for n in found) for t in others) else []
