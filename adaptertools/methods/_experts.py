"""LoRA of an nn.Parameter (`target_parameters`): s·B·A for each expert, in whose orientation.

A is (experts · r, in), B is (out, r · experts). Which axis of the parameter is `in` changed twice,
after peft/tuners/lora/layer.py, ParamWrapper, of each release: up to 0.18 the second always; in
0.19.0 the third where the module says `is_transposed`; since 0.19.1 the third where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adaptertools.adapter import Entry, Factor, Fused, Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Update
from adaptertools.update.experts import Experts
from adaptertools.update.lowrank import LowRank

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:\.?(dev|rc|a|b)|$)")


def update(site: Site, fused: Fused) -> Update:
    """Give the update of a parameter: one for all experts, or a plain product for a matrix."""
    down, up = factors(site.entry)
    experts, rank = experts_of(fused.shape), site.entry.rank
    if down.rows != experts * rank or up.columns != rank * experts:
        raise Mismatch(
            f"{shown(fused.parameter)}: {experts} experts of rank {rank} were expected by base and "
            f"config, lora_A has {down.rows} rows and lora_B {up.columns} columns. "
            "Correct r or rank_pattern in adapter_config.json, or pass the right --base."
        )
    if fused.shape != site.weight.shape:
        raise Mismatch(
            f"{shown(fused.parameter)} is {list(site.weight.shape)} in the base, and "
            f"{list(fused.shape)} in the model that its config describes."
        )
    scale = site.entry.scale * site.scale
    if len(fused.shape) == 2:
        return LowRank(Factor(up), Factor(down), scale)
    return Experts(
        Factor(up), Factor(down), experts, rank, scale, rank_major=fused.rank_major,
        turned=fused.turned,
    )  # fmt: skip


def factors(entry: Entry) -> tuple[TensorSpec, TensorSpec]:
    """Give A and B, two matrices; a parameter has nothing else in any release of PEFT."""
    if odd := sorted(entry.parts.keys() - {"lora_A", "lora_B"}):
        raise Unsupported(
            f"{shown(entry.parts[odd[0]].name)}: PEFT has no {shown(odd[0])} for a parameter. "
            "Nothing was written, because leaving it out could change the result."
        )
    if missing := [role for role in ("lora_A", "lora_B") if role not in entry.parts]:
        raise Unreadable(
            f"{shown(entry.target)} has no {first(missing)}. Half a pair cannot be applied. "
            "The run was probably killed while saving; save the adapter again."
        )
    a, b = entry.parts["lora_A"], entry.parts["lora_B"]
    for spec in (a, b):
        if len(spec.shape) != 2 or spec.dtype not in FLOATS:
            raise Unreadable(
                f"{shown(spec.name)} is {shown(spec.dtype)} {list(spec.shape)}; a matrix of floats "
                "was expected."
            )
    return a, b


def experts_of(shape: tuple[int, ...]) -> int:
    """Count the matrices of a parameter."""
    return shape[0] if len(shape) == 3 else 1


def readings(entry: Entry, parameter: str, shape: tuple[int, ...]) -> tuple[bool, ...]:
    """Tell which of B·A (False) and (B·A)ᵀ (True) have the parameter's shape.

    Raises Unsupported for a parameter that is no matrix and no stack of some, Mismatch where
    neither fits.
    """
    if len(shape) not in (2, 3):
        raise Unsupported(
            f"{shown(parameter)} is {list(shape)}: PEFT adapts matrices and stacks of them."
        )
    down, up = factors(entry)
    change, turned = (up.rows, down.columns), (down.columns, up.rows)
    if shape[0] == 1 or len(shape) == 2:  # PEFT adds B·A as it is where there is one matrix
        found = [False] if change == shape[-2:] else []
    else:
        found = [way for way, of in ((False, change), (True, turned)) if of == shape[-2:]]
    if not found:
        raise Mismatch(
            f"{shown(parameter)}: the update is {change[0]}×{change[1]}, the base has "
            f"{list(shape)}. Pass the base that it was trained on as --base."
        )
    return tuple(found)


def turned(version: object, in_out: bool) -> bool | None:
    """Tell whether a release adds (B·A)ᵀ, where shapes do not; None where the version is unclear.

    `in_out`: the module's `is_transposed`. Configs name their PEFT since 0.18; none is older.
    """
    if version is None:
        return True
    match = _VERSION.match(version) if isinstance(version, str) else None
    if match is None:
        return None
    major, minor, patch = int(match[1]), int(match[2]), int(match[3])
    could = [(major, minor, patch)]
    if match[4]:  # a build of the time between two releases
        could += [(major, minor, patch - 1), (major, minor + 1, 0)]
    ways = {_turned(number, in_out) for number in could}
    return ways.pop() if len(ways) == 1 else None


def _turned(number: tuple[int, int, int], in_out: bool) -> bool:
    if number < (0, 19, 0):
        return True
    return not in_out if number == (0, 19, 0) else in_out


def packing(config: Mapping[str, Any], parameter: str) -> bool | None:
    """Tell whether the columns of B have the rank slowest, as the file says; None where it doesn't.

    Unsloth since September 2026 says so, for all or for each parameter, at the top of the config
    or in auto_mapping. Raises Unsupported for a layout that is neither.
    """
    short = parameter.rpartition(".")[2]
    for place in (config, config.get("auto_mapping")):
        place = place if isinstance(place, dict) else {}
        detail = place.get("unsloth_fused_expert_lora")
        each = detail.get("parameters") if isinstance(detail, dict) else None
        own = each.get(short) if isinstance(each, dict) else None
        said = own.get("lora_B_layout") if isinstance(own, dict) else place.get("lora_B_layout")
        if said is not None:
            if said not in ("rank_major", "grouped_by_expert"):
                raise Unsupported(
                    f"{shown(parameter)}: adapter_config.json says that lora_B_layout is "
                    f"{shown(said)}; rank_major and grouped_by_expert are known. Pass "
                    "--expert-packing peft or expert-major."
                )
            return bool(said == "rank_major")
    return None
