"""TOK: the tokenizer beside the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import first
from adaptertools.facts import Base, Facts, Found, Result, Weights

Config = Mapping[str, Any]
_FILE, _ADDED = "tokenizer.json", "added_tokens.json"


def _added(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Give the added tokens and their numbers, from whichever file says so."""
    found: dict[str, int] = {}
    said = tokenizer.get(_ADDED)
    if isinstance(said, dict):
        found |= {str(k): v for k, v in said.items() if type(v) is int}
    whole = tokenizer.get(_FILE)
    listed = whole.get("added_tokens") if isinstance(whole, dict) else None
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, dict) and type(item.get("id")) is int:
            found[str(item.get("content"))] = item["id"]
    return found


def _vocabulary(tokenizer: Mapping[str, Any]) -> int:
    """Give the number after the model's last token, without the added ones; 0 if no file says."""
    whole = tokenizer.get(_FILE)
    model = whole.get("model") if isinstance(whole, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else tokenizer.get("vocab.json")
    if isinstance(vocab, dict):
        return max((n for n in vocab.values() if type(n) is int), default=-1) + 1
    return len(vocab) if isinstance(vocab, list) else 0


@check("TOK001", "every token has a row", fix="Resize and save the embeddings with the adapter.")
def rows(tokenizer: Mapping[str, Any], weights: Weights, base: Base) -> Result:
    """A tokenizer with more tokens than the base has rows needs embeddings that were trained.

    AutoPeftModel resizes the base to the tokenizer beside the adapter, and its new rows are random.
    Whoever loads the base by itself gets an index error at the first new token.
    """
    nested = base.config.get("text_config")
    config = nested if isinstance(nested, dict) else base.config
    size = config.get("vocab_size")
    added = _added(tokenizer)
    count = max([_vocabulary(tokenizer) - 1, *added.values()]) + 1
    saved = [n for n in _names.saved(weights.tensors).values() if "embed" in n or "wte" in n]
    if type(size) is int and count > size and not saved:
        yield Found(
            text=f"The tokenizer has {count} tokens, the base {size} rows, and no embeddings are "
            "saved.",
            file=_FILE if _FILE in tokenizer else _ADDED,
        )


@check("TOK002", "added tokens are in order", level="warning", fix="Save the tokenizer again.")
def ordered(tokenizer: Mapping[str, Any], facts: Facts) -> Result:
    """Numbers that are taken twice, or leave gaps, mean tokens that were added by hand."""
    size, added = _vocabulary(tokenizer), _added(tokenizer)
    file = _ADDED if _ADDED in tokenizer else _FILE
    numbers = sorted(added.values())
    twice = sorted({n for a, n in pairwise(numbers) if a == n})
    if twice:
        yield Found(text=f"Numbers that two added tokens share: {first(twice)}.", file=file)
    new = [n for n in dict.fromkeys(numbers) if n >= size]
    if size and new and new != list(range(size, size + len(new))):
        text = f"Added tokens leave gaps after the model's {size}: {first(new)}."
        yield Found(text=text, file=file)
    yield from _trained(facts.config or {}, max([size - 1, *numbers]) + 1)


def _trained(config: Config, count: int) -> Result:
    said = config.get("trainable_token_indices")
    lists = list(said.values()) if isinstance(said, dict) else [said]
    numbers = [n for one in lists if isinstance(one, list) for n in one if type(n) is int]
    beyond = [n for n in numbers if n >= count or n < 0]
    if count > 1 and beyond:
        yield Found(
            text=f"trainable_token_indices names {first(beyond)}, and there are {count} tokens.",
            pointer="/trainable_token_indices",
        )


@check("TOK003", "the tokenizer is needed", level="note",
       fix="Leave it out, so that the base's own is used.")  # fmt: skip
def needed(tokenizer: Mapping[str, Any], config: Config, weights: Weights) -> Result:
    """A copy of the base's tokenizer makes loaders resize, and ages when the base's is mended.

    A chat template in it replaces the base's for everyone who loads the adapter.
    """
    saved = [n for n in _names.saved(weights.tensors).values() if "embed" in n or "wte" in n]
    if saved or config.get("trainable_token_indices"):
        return
    said = tokenizer.get("tokenizer_config.json")
    template = isinstance(said, dict) and bool(said.get("chat_template"))
    text = "A tokenizer lies beside the adapter, which changes no embedding"
    yield Found(
        text=text + ("; it brings a chat template." if template else "."),
        file=_FILE if _FILE in tokenizer else next(iter(tokenizer)),
    )
