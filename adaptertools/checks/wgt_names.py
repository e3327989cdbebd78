"""WGT: the names of the tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from adaptertools import peft_keys
from adaptertools.checks import _names, check
from adaptertools.errors import first, shown
from adaptertools.facts import Facts, Found, Result, Weights

WEIGHTS = "adapter_model.safetensors"


@check("WGT001", "the weights can be read", fix="Fetch or save the file again.")
def readable(facts: Facts) -> Result:
    """A header that is cut short, overlaps or counts wrongly is read differently by each reader.

    Checked as the safetensors format says, and stricter: duplicate names and holes are faults too.
    """
    for name in (WEIGHTS, "adapter_model.bin"):
        file = facts.files.get(name)
        if file and file.size > 0 and facts.weights is None and not _pointer(file.read(200)):
            yield Found(text=facts.why.get("weights", "It cannot be read."), file=name)
            return


def _pointer(data: bytes) -> bool:
    return data.startswith(b"version https://git-lfs")


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
    for name in weights.tensors:
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
    if kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "CARTRIDGE"):
        return []
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
        for one, other in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            for have, lack in ((one, other), (other, one)):
                if have in parts and lack not in parts:
                    yield Found(
                        text=f"{shown(module)} has {have} and no {lack}.", file=weights.file,
                        tensor=parts[have].name,
                    )  # fmt: skip


@check("WGT011", "nothing else is in the file", level="warning", fix="Save the adapter alone.")
def nothing_else(config: Mapping[str, Any], weights: Weights) -> Result:
    """Optimizer states and base weights make the file large; loaders ignore or misread them."""
    if config.get("peft_type") != "LORA":
        return
    listed = _names.names(config.get("modules_to_save"))
    strange = [
        name
        for name, module in _names.saved(weights.tensors).items()
        if not _expected(module, listed, str(config.get("bias"))) and not _names.foreign(name)
    ]
    states = [n for n in weights.tensors if n.startswith(("optimizer.", "exp_avg", "state."))]
    for what, found in (("of an optimizer", states), ("of whole base weights", strange)):
        rest = [name for name in found if name not in states or what == "of an optimizer"]
        if rest:
            yield Found(
                text=f"{len(rest)} tensors {what}: {first(rest, 3)}.", file=weights.file,
                tensor=rest[0],
            )  # fmt: skip


_HEADS = ("classifier", "score", "qa_outputs", "pre_classifier", "lm_head", "embed_tokens", "wte",
          "word_embeddings", "shared", "embed_in", "embed_out")  # fmt: skip


def _expected(tensor: str, listed: list[str], bias: str) -> bool:
    module = tensor.rpartition(".")[0]
    names = [*listed, *_HEADS]
    if any(_names.ends_with(module, n) or f".{n}." in f".{module}." for n in names):
        return True
    return tensor.endswith(".bias") and bias in ("all", "lora_only")
