"""WGT: the names of the tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from adaptertools import peft_keys
from adaptertools.checks import _files, _names, check
from adaptertools.checks._files import PICKLED, WEIGHTS
from adaptertools.errors import first, shown
from adaptertools.facts import Facts, Found, Result, Weights

_UNPREFIXED = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT",
               "CARTRIDGE", "ADAPTION_PROMPT", "XLORA")  # fmt: skip
_PAIR = {"lora_A", "lora_B"}
_OWN = _PAIR | {"lora_A.bias", "lora_B.bias", "lora_embedding_A", "lora_embedding_B",
                "lora_magnitude_vector"}  # fmt: skip


@check("WGT001", "the weights can be read", fix="Fetch or save the file again.")
def readable(facts: Facts) -> Result:
    """A header that is cut short, overlaps or counts wrongly is read differently by each reader.

    Checked as the safetensors format says, and stricter: duplicate names and holes are faults too.
    """
    for name in (WEIGHTS, PICKLED, facts.foreign):
        file = facts.files.get(name)
        if file and file.size and facts.weights is None and _files.pointed(file) is None:
            why = facts.why.get("weights", "It cannot be read.")
            if "cut short" not in why or name == facts.foreign:  # WGT018 says so of PEFT's
                yield Found(text=why, file=name)
            return


@check("WGT002", "there is something in the weights", fix="Save the adapter again, from one rank.")
def something(weights: Weights) -> Result:
    """A file without tensors, or with tensors of no elements, loads as the bare base model.

    DeepSpeed's ZeRO-3 saves empty tensors where the weights were not gathered first.
    """
    if not weights.tensors:
        yield Found(text="It holds no tensors.", file=weights.file)
    empty = [name for name, spec in weights.tensors.items() if 0 in spec.shape]
    if empty:
        yield Found(
            text=f"{len(empty)} tensors have no elements: {first(empty, 3)}.", file=weights.file,
            tensor=empty[0], hint="Gather the weights before saving (ZeRO-3).",
        )  # fmt: skip


@check("WGT003", "tensors are named as PEFT names them", fix="Save it with PEFT's save_pretrained.")
def spelled(config: Mapping[str, Any], weights: Weights) -> Result:
    """PEFT looks tensors up by name; what it does not find keeps its initial value.

    The adapter then loads with a warning, or without one before 0.14, and does nothing.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    keys, junk = _names.taken(weights.tensors)
    odd = (
        weights.tensors
        if junk.total()
        else [name for name, key in keys.items() if key.adapter or key.role not in _OWN]
    )
    for name in odd:
        for fault in _faults(name, str(config.get("peft_type"))):
            counts[fault] += 1
            examples.setdefault(fault, name)
    for fault, count in counts.items():
        level = "warning" if fault.startswith("left in") else ""
        yield Found(
            text=f"{count} tensors: {fault}, such as {shown(examples[fault])}.", level=level,
            file=weights.file, tensor=examples[fault],
        )  # fmt: skip


def _faults(name: str, kind: str) -> list[str]:
    if kind in _UNPREFIXED or (kind != "LORA" and name.startswith("base_model.")):
        return []  # what several modules share lies directly in base_model
    if tool := _names.foreign(name):
        return [f"{tool} spelling, which PEFT does not read"]
    junk: Counter[str] = Counter()
    key = peft_keys.parse(name, "lora_", junk)
    found = []
    if junk.pop("(no base_model.model prefix)", 0):
        found.append("no base_model.model. prefix")
    if junk.pop(peft_keys.PREFIX.rstrip("."), 0):
        found.append("base_model.model. twice")
    found += [f"left in by a wrapper: {wrapper}" for wrapper, count in junk.items() if count]
    if key.adapter and key.role.startswith("lora_"):
        found.append(f"left in: the adapter's name {shown(key.adapter)!r}")
    return found


@check("WGT004", "every lora_A has its lora_B", fix="Save the adapter again.")
def pairs(weights: Weights) -> Result:
    """Half a pair cannot be applied: PEFT leaves the other half at its initial value.

    The run was probably killed while it was saving, or tensors were filtered by name.
    """
    for module, parts in _names.modules(weights.tensors).items():
        if parts.keys() == _PAIR:
            continue
        for one, other in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            for have, lack in ((one, other), (other, one)):
                if have in parts and lack not in parts:
                    yield Found(
                        text=f"{shown(module)} has {have} and no {lack}.", file=weights.file,
                        tensor=parts[have].name,
                    )  # fmt: skip
