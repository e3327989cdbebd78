"""BAS: vocabulary, embeddings and task against the base that was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import first, shown
from adaptertools.facts import Base, Facts, Found, Result, Weights

Config = Mapping[str, Any]
_INNER = ("embed_tokens", "wte", "shared", "word_embeddings", "embed_in")
_OUTER = ("lm_head", "embed_out")
_CLASSES = ("classifier", "score", "qa_outputs", "head", "classification_head")


def _text(base: Base) -> Config:
    """Give the part of the config that describes the text model."""
    nested = base.config.get("text_config")
    return nested if isinstance(nested, dict) else base.config


def _leaf(module: str) -> str:
    return module.removesuffix(".weight").rpartition(".")[2]


@check("BAS008", "the vocabulary fits", fix="Pass the base with the vocabulary of the training.")
def vocabulary(config: Config, weights: Weights, base: Base, facts: Facts) -> Result:
    """Embeddings of another vocabulary stop PEFT with a size mismatch.

    AutoPeftModel makes the base larger first, where a tokenizer with more tokens lies beside the
    adapter; other loaders do not.
    """
    size = _text(base).get("vocab_size")
    if type(size) is not int:
        return
    for name, rows in _rows(weights):
        if rows != size:
            grown = rows > size and "tokenizer_config.json" in facts.files
            yield Found(
                text=f"{shown(name)} has {rows} rows, the base's vocabulary {size}.",
                file=weights.file, tensor=name, level="warning" if grown else "",
                hint="Resize the base to it before loading." if grown else "",
            )  # fmt: skip
    said = config.get("trainable_token_indices")
    lists = said.values() if isinstance(said, dict) else [said]
    numbers = [n for one in lists if isinstance(one, list) for n in one if type(n) is int]
    if (beyond := [n for n in numbers if n >= size]) and "tokenizer_config.json" not in facts.files:
        yield Found(
            text=f"trainable_token_indices names {first(beyond)}, the base has {size} tokens.",
            pointer="/trainable_token_indices",
        )


def _rows(weights: Weights) -> Iterator[tuple[str, int]]:
    """Give each tensor that has a row or column for every token, and how many."""
    for name, module in _names.saved(weights.tensors).items():
        shape = weights.tensors[name].shape
        if _leaf(module) in (*_INNER, *_OUTER) and len(shape) == 2:
            yield name, shape[0]
    for module, parts in _names.modules(weights.tensors).items():
        for role, axis in (("lora_embedding_A", 1), ("lora_B", 0)):
            spec = parts.get(role)
            leaves = _INNER if axis else _OUTER
            if spec and len(spec.shape) == 2 and _leaf(module) in leaves:
                yield spec.name, spec.shape[axis]


@check("BAS009", "tied embeddings are changed together", level="warning",
       fix="Save both, or set ensure_weight_tying.")  # fmt: skip
def tied(config: Config, weights: Weights, base: Base) -> Result:
    """Where input and output embeddings are one tensor, training one alone unties them.

    Whoever loads the merged model ties them again, and gets another model than was trained.
    """
    if not _ties(base) or config.get("ensure_weight_tying"):
        return
    names = [*_names.saved(weights.tensors).values(), *_names.modules(weights.tensors)]
    leaves = {_leaf(name) for name in names}
    inner, outer = leaves.intersection(_INNER), leaves.intersection(_OUTER)
    if bool(inner) != bool(outer):
        yield Found(
            text=f"{first(sorted(inner | outer))} is changed alone, and the base ties its "
            "embeddings.",
            file=weights.file,
        )


def _ties(base: Base) -> bool:
    """Tell whether the base has one tensor for both; its files know where its config is silent."""
    said = [c.get("tie_word_embeddings") for c in (_text(base), base.config)]
    said = [word for word in said if isinstance(word, bool)]
    if said or base.tensors is None:
        return bool(said and said[0])
    leaves = {_leaf(name) for name in base.tensors}
    causal = any("CausalLM" in name or "LMHead" in name for name in _architectures(base))
    return causal and bool(leaves.intersection(_INNER)) and not leaves.intersection(_OUTER)


def _architectures(base: Base) -> list[str]:
    return _names.names(base.config.get("architectures"))


@check("BAS010", "the task fits the base", level="warning", fix="Correct task_type, or save heads.")
def task(config: Config, weights: Weights, base: Base) -> Result:
    """A classifier without its head starts from a random one; a task of another kind misleads."""
    kind = config.get("task_type")
    double = bool(base.config.get("is_encoder_decoder"))
    classes = " ".join(_architectures(base))
    lone = kind == "SEQ_2_SEQ_LM" and not double and "ConditionalGeneration" not in classes
    if (kind == "CAUSAL_LM" and double) or lone:
        yield Found(
            text=f"task_type is {kind}, and the base is {'an' if double else 'no'} "
            "encoder-decoder.",
            pointer="/task_type",
        )
    names = [tensor.removesuffix(".weight") for tensor in _names.saved(weights.tensors).values()]
    saved = any(f".{head}." in f".{name}." for name in names for head in _CLASSES)
    if kind in ("SEQ_CLS", "TOKEN_CLS") and not saved and "Classification" not in classes:
        yield Found(text=f"task_type is {kind}, and no head is saved.", pointer="/task_type")
