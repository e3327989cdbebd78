"""WGT: the weights against the config. Only LoRA's names are known that well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import AdapterToolsError, first, shown
from adaptertools.facts import Found, Result, Weights
from adaptertools.tensorfile import TensorSpec

Config = Mapping[str, Any]
Parts = Mapping[str, TensorSpec]
_AXES = {"lora_A": 0, "lora_B": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}  # of the rank


def _lora(config: Config, weights: Weights) -> dict[str, dict[str, TensorSpec]]:
    """Give a LoRA's modules; nothing for other methods."""
    return _names.modules(weights.tensors) if config.get("peft_type") == "LORA" else {}


@check("WGT005", "shapes have the rank that the config says", fix="Correct r or rank_pattern.")
def ranks(config: Config, weights: Weights) -> Result:
    """PEFT makes factors of rank r (or rank_pattern's) and stops where the file's differ.

    vLLM and others take the rank from the file and the scale from the config, and are wrong
    without a word. A rank_pattern key matches the end of a module's name, the first one wins.
    """
    fused = config.get("target_parameters")
    if config.get("use_bdlora"):
        return  # its factors are cut into blocks
    for module, parts in _lora(config, weights).items():
        if fused and (config.get("rank_pattern") or not _whole(parts)):
            continue  # whose parameter it is does not stand in the name
        try:
            rank = _names.number(config, "rank_pattern", module, config.get("r"))
        except AdapterToolsError as error:
            yield Found(text=str(error), pointer="/rank_pattern")
            return
        for role, spec in _wrong(parts, rank, fused=bool(fused)):
            yield Found(
                text=f"{shown(module)}: {role} is {list(spec.shape)}, rank {shown(rank)} was "
                "expected.",
                file=weights.file, tensor=spec.name,
            )  # fmt: skip
            break


def _whole(parts: Parts) -> bool:
    return {"lora_A", "lora_B"} <= parts.keys()


def _wrong(parts: Parts, rank: object, *, fused: bool) -> Iterator[tuple[str, TensorSpec]]:
    """Give the factors of another rank; those of fused experts hold one for each expert."""
    for role, axis in _AXES.items():
        if role not in parts or 0 in parts[role].shape:  # WGT002 says so
            continue
        shape = parts[role].shape
        length = shape[axis] if len(shape) > axis and len(shape) > 1 else -1
        whole = fused and isinstance(rank, int) and rank > 0 and length > 0 and length % rank == 0
        if length != rank and not whole:
            yield role, parts[role]


@check("WGT007", "every target has tensors", level="warning", fix="Take it out of the config.")
def ghosts(config: Config, weights: Weights) -> Result:
    """A name in target_modules that no tensor has is ignored by PEFT and vLLM, not by SGLang."""
    modules = _lora(config, weights)
    names = _names.names(config.get("target_modules"))
    there = {name for _, name in _names.meant(modules, names)}
    for i, name in enumerate(names):
        if modules and name != "all-linear" and name not in there:
            yield Found(
                text=f"{shown(name)} is targeted, and no tensor belongs to it.",
                pointer=f"/target_modules/{i}",
            )


@check("WGT008", "every layer has the same modules", level="warning",
       fix="Fetch the file again, or check the run that saved it.")  # fmt: skip
def even(config: Config, weights: Weights) -> Result:
    """A module that most layers have and some lack is the sign of a lost shard.

    Layers of two kinds that take turns are no such sign, nor are experts, which the first layers of
    many models lack.
    """
    if config.get("layers_to_transform") is not None:
        return
    towers: dict[str, dict[str, set[int]]] = {}
    for module in _lora(config, weights):
        number, kind = _names.layer(module)
        if number is not None:
            towers.setdefault(kind.partition(".N.")[0], {}).setdefault(kind, set()).add(number)
    for tower, kinds in towers.items():
        yield from _uneven(tower, kinds, weights.file)


def _uneven(tower: str, kinds: Mapping[str, set[int]], file: str) -> Result:
    every = set().union(*kinds.values())
    for kind, have in sorted(kinds.items()):
        lack = sorted(every - have)
        if lack and len(have) > len(every) / 2 and "expert" not in kind and not _in_turn(lack):
            yield Found(
                text=f"{shown(kind)} is adapted in {len(have)} of {len(every)} layers, and not in "
                f"{first(lack)}.",
                file=file,
            )
    if max(every) < 10_000:
        holes = sorted(set(range(min(every), max(every) + 1)) - every)
        if holes and len(holes) < len(every) and not _in_turn(holes):
            text = f"No tensor of layers {first(holes)}, between those of {shown(tower)}."
            yield Found(text=text, file=file)


def _in_turn(numbers: list[int]) -> bool:
    """Tell whether numbers keep one distance of more than one, as layers of a second kind do."""
    steps = {b - a for a, b in pairwise(numbers)}
    return len(numbers) > 2 and len(steps) == 1 and 1 not in steps


@check("WGT009", "DoRA, biases and their tensors agree", fix="Correct the config, or save again.")
def variants(config: Config, weights: Weights) -> Result:
    """use_dora without magnitudes, or magnitudes without use_dora, computes something else."""
    modules = _lora(config, weights)
    pairs = [m for m, parts in modules.items() if parts.keys() & _AXES.keys()]
    for key, role in (("use_dora", "lora_magnitude_vector"), ("lora_bias", "lora_B.bias")):
        have = [m for m in pairs if role in modules[m]]
        lack = [m for m in pairs if role not in modules[m]]
        on = bool(config.get(key))
        if on and lack:
            yield Found(
                text=f"{key} is set, and {len(lack)} of {len(pairs)} modules have no {role}: "
                f"{first(lack, 3)}.",
                pointer=f"/{key}",
            )
        if have and not on:
            yield Found(
                text=f"{len(have)} modules have {role}, and {key} is not set.", pointer=f"/{key}"
            )
    biased = config.get("bias") in ("all", "lora_only")
    held = any(name.endswith(".bias") for name in _names.saved(weights.tensors))
    if pairs and biased and not held:
        yield Found(
            text=f"bias is {config['bias']!r}, and the file holds no bias.", pointer="/bias",
            level="warning",
        )  # fmt: skip
