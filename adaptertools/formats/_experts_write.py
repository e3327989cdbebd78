"""PEFT's folder of an adapter with fused experts (`target_parameters`), in either of two layouts.

PEFT 0.19.1 and later hold A over the inputs; 0.17 and 0.18 hold it over the outputs, but for models
that store (in, out). PEFT nests the weights of one module under `base_layer`, the first inmost; the
names of the weights are in the config alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Adapter, Entry
from adaptertools.formats._experts_join import Stack
from adaptertools.formats._experts_names import ExpertNames
from adaptertools.formats._experts_pack import packed
from adaptertools.formats._experts_patterns import alpha_of, patterns
from adaptertools.formats._normal import save
from adaptertools.formats._peft_write import exact_targets
from adaptertools.peft_keys import PREFIX
from adaptertools.tensorfile import read_header

if TYPE_CHECKING:
    from adaptertools.update import Array

# What is written -> the PEFT that wrote so, which readers are told, and whether it is turned.
LAYOUTS: Mapping[str, tuple[str, bool]] = {
    "fused": ("0.19.1", False), "fused-0.18": ("0.18.1", True),
}  # fmt: skip


def fused(
    adapter: Adapter, rest: Adapter, stacks: Iterable[Stack], names: ExpertNames, layout: str,
    room: Path, adapted: Mapping[str, list[str]],
) -> Adapter:  # fmt: skip
    """Give the adapter to write: `rest` as it is, and the stacks; `adapted` are each module's own.

    `adapter` is the one before its experts were taken out of it.
    """
    sizes: dict[str, tuple[int, float]] = {
        _named(e, names): (e.rank, e.scale) for e in rest.entries
    }
    version, turned = LAYOUTS[layout]

    def tensors() -> Iterator[tuple[str, Array]]:
        for name, spec in rest.tensors.items():
            yield names.renamed(name, fused=True), tensorfile.read(spec)
        for stack in stacks:
            own = adapted[stack.module]
            sizes[f"{stack.module}.{stack.parameter}"] = stack.rank, stack.scale
            inner = ".base_layer" * (len(own) - 1 - own.index(stack.parameter))
            start = f"{PREFIX}{stack.module}{inner}"
            a, b = packed(stack.down, stack.up, turned=turned and not names.in_out)
            yield f"{start}.lora_A.weight", a
            yield f"{start}.lora_B.weight", b

    path = room / "fused.safetensors"
    save(path, tensors())
    config = _config(adapter, rest, sizes, names) | {"peft_version": version}
    return replace(rest, config=config, tensors=read_header(path).tensors, entries=())


def _named(entry: Entry, names: ExpertNames) -> str:
    """Give a module's name, or that of its weight where transformers 5 has no module of it."""
    name = names.renamed(entry.target, fused=True)
    return f"{name}.weight" if names.router(name) else name


def _config(
    adapter: Adapter, rest: Adapter, sizes: Mapping[str, tuple[int, float]], names: ExpertNames
) -> dict[str, Any]:
    """Say which weights are adapted, each by its full name, and rank and alpha of everything."""
    others = [e.target for e in rest.entries if not names.router(e.target)]
    every = [entry.target for entry in adapter.entries]
    listed = adapter.config.get("target_modules")
    stable = bool(adapter.config.get("use_rslora"))
    gone = {"layers_to_transform", "layers_pattern", "exclude_modules", "lora_B_layout"}
    kept = {key: value for key, value in rest.config.items() if key not in gone}
    ranks = patterns({name: rank for name, (rank, _) in sizes.items()})
    alphas = patterns({n: alpha_of(scale, rank, stable) for n, (rank, scale) in sizes.items()})
    return kept | {
        "target_parameters": sorted(sizes.keys() - set(others)),
        "target_modules": exact_targets(others, [listed], every) if others else [],
        "r": ranks.usual, "rank_pattern": ranks.others, "lora_alpha": alphas.usual,
        "alpha_pattern": alphas.others, "use_rslora": stable, "lora_dropout": 0.0,
        "fan_in_fan_out": False, "init_lora_weights": True, "lora_bias": False, "use_dora": False,
    }  # fmt: skip
