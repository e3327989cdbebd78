"""WGT: whole modules that are saved along: those that the config lists, and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import first
from adaptertools.facts import Facts, Found, Result, Weights

Config = Mapping[str, Any]
_CLASSES = ("SEQ_CLS", "TOKEN_CLS")
_BY_TASK = ("classifier", "score")  # PEFT lists both for classifiers; a model has one of them
_HEADS = (*_BY_TASK, "qa_outputs", "pre_classifier", "lm_head", "embed_tokens", "wte",
          "word_embeddings", "shared", "embed_in", "embed_out")  # fmt: skip
_STATES = ("optimizer.", "exp_avg", "state.")


def _lies_in(module: str, name: str) -> bool:
    return f".{name}." in f".{module}."


@check("WGT010", "saved modules are in the file", fix="Save the adapter again with the module.")
def saved(config: Config, weights: Weights, facts: Facts) -> Result:
    """PEFT stops with a bare KeyError where a module of modules_to_save has no tensors.

    It passes over names that the base does not have, as `score` where the head is `classifier`.
    """
    if config.get("peft_type") != "LORA":
        return
    whole = [name.rpartition(".")[0] for name in _names.saved(weights.tensors).values()]
    listed = list(dict.fromkeys(_names.to_save(config)))
    lack = [name for name in listed if not any(_lies_in(m, name) for m in whole)]
    if any(name in listed and name not in lack for name in _BY_TASK):
        lack = [name for name in lack if name not in _BY_TASK]
    if facts.base and facts.base.tensors is not None:
        has = [name.rpartition(".")[0] for name in facts.base.tensors]
        lack = [n for n in lack if n in _BY_TASK or any(_lies_in(m, n) for m in has)]
    if lack:
        yield Found(
            text=f"modules_to_save lists {first(lack, 3)}, and the file holds no tensor of it.",
            pointer="/modules_to_save",
        )
    heads = [m for m in whole if any(_lies_in(m, h) for h in ("pre_classifier", *_BY_TASK))]
    extra = [m for m in heads if not any(_lies_in(m, n) for n in listed)]
    if extra:
        yield _unlisted(config, sorted(set(extra)))


def _unlisted(config: Config, heads: list[str]) -> Found:
    """Say what becomes of heads that are saved and not listed."""
    task = config.get("task_type")
    itself = [m for m in heads if task in _CLASSES and any(_lies_in(m, n) for n in _BY_TASK)]
    rest = [m for m in heads if m not in itself]
    hint = f"List {first(rest or itself, 3)} there."
    if itself:
        hint += f" PEFT adds {first(itself, 3)} by itself, because task_type is {task}."
    return Found(
        text=f"{first(heads, 3)} is saved whole, and modules_to_save does not list it.",
        pointer="/modules_to_save", level="warning", hint=hint,
    )  # fmt: skip


@check("WGT011", "nothing else is in the file", level="warning", fix="Save the adapter alone.")
def nothing_else(config: Config, weights: Weights) -> Result:
    """Optimizer states and base weights make the file large; loaders ignore or misread them."""
    if config.get("peft_type") != "LORA":
        return
    listed = _names.to_save(config)
    states = [name for name in weights.tensors if name.startswith(_STATES)]
    strange = [
        name
        for name, tensor in _names.saved(weights.tensors).items()
        if not (_expected(tensor, listed, config.get("bias")) or _names.foreign(name))
    ]
    own = set(states)
    rest = [name for name in strange if name not in own]
    for what, found in (("of an optimizer", states), ("of whole base weights", rest)):
        if found:
            yield Found(
                text=f"{len(found)} tensors {what}: {first(found, 3)}.", file=weights.file,
                tensor=found[0],
            )  # fmt: skip


def _expected(tensor: str, listed: list[str], bias: object) -> bool:
    module = tensor.rpartition(".")[0]
    if any(_lies_in(module, name) for name in (*listed, *_HEADS)):
        return True
    return tensor.endswith(".bias") and bias in ("all", "lora_only")
