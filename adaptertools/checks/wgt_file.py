"""WGT: the file itself: dtypes, metadata, containers, prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from adaptertools.checks import check
from adaptertools.errors import first, shown
from adaptertools.facts import Facts, Found, Result, Weights

_USUAL = ("F32", "BF16", "F16")
_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING")


@check("WGT012", "tensors have one usual dtype", level="warning", fix="Convert before publishing.")
def dtypes(weights: Weights) -> Result:
    """Mixed dtypes are the sign of tensors from two sources; F64 doubles the size for nothing.

    Integers and 8-bit floats are no weights that a loader would add to anything.
    """
    counts = Counter(spec.dtype for spec in weights.tensors.values())
    odd = [dtype for dtype in counts if dtype not in _USUAL]
    if odd:
        name = next(n for n, spec in weights.tensors.items() if spec.dtype in odd)
        yield Found(
            text=f"{sum(counts[d] for d in odd)} tensors are {first(odd)}, such as {shown(name)}.",
            file=weights.file, tensor=name,
        )  # fmt: skip
    usual = [dtype for dtype in counts if dtype in _USUAL]
    if len(usual) > 1:
        said = ", ".join(f"{counts[dtype]} {dtype}" for dtype in usual)
        yield Found(text=f"Dtypes are mixed: {said}.", file=weights.file)


@check("WGT017", "the file's metadata agrees", level="note", fix="Save it with safetensors anew.")
def metadata(weights: Weights, config: Mapping[str, Any]) -> Result:
    """Older transformers refuse a file whose metadata lacks `format: pt`.

    diffusers keeps a config of its own in `lora_adapter_metadata`, which may disagree.
    """
    if weights.pickled:
        return
    if weights.metadata.get("format") != "pt":
        yield Found(text='__metadata__ has no "format": "pt".', file=weights.file)
    try:
        inner = json.loads(weights.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        yield Found(text="lora_adapter_metadata is no JSON.", file=weights.file)
        return
    for key in ("r", "lora_alpha"):
        said = {v for k, v in inner.items() if k.rpartition(".")[2] == key and type(v) is int}
        if said and key in config and said != {config[key]}:
            yield Found(
                text=f"lora_adapter_metadata says {key} {first(sorted(said))}, the config "
                f"{shown(config[key])}.",
                pointer=f"/{key}", level="warning",
            )  # fmt: skip


@check("WGT018", "containers are whole", fix="Upload the file again; it was cut short.")
def whole(facts: Facts) -> Result:
    """A pickle without its zip directory, or of another size than it says, was cut off."""
    for pickle in facts.pickles:
        if pickle.file == "adapter_model.bin" and pickle.refused:
            yield Found(text=f"It cannot be read: {pickle.refused}.", file=pickle.file)


@check("WGT019", "prompts have the shape that the config says", fix="Correct the config.")
def prompts(config: Mapping[str, Any], weights: Weights) -> Result:
    """Prompt learning stores one matrix: virtual tokens (times submodules) by token width."""
    if config.get("peft_type") not in _PROMPTS:
        return
    spec = weights.tensors.get("prompt_embeddings")
    if spec is None:
        yield Found(text="The file holds no prompt_embeddings.", file=weights.file)
        return
    tokens, width = config.get("num_virtual_tokens"), config.get("token_dim")
    if type(tokens) is not int or type(width) is not int:
        return
    rows = [tokens, tokens * int(config.get("num_transformer_submodules") or 1)]
    if config["peft_type"] == "PREFIX_TUNING":
        width *= 2 * int(config.get("num_layers") or 0)
    if len(spec.shape) != 2 or spec.shape[0] not in rows or spec.shape[1] != width:
        yield Found(
            text=f"prompt_embeddings is {list(spec.shape)}, [{rows[-1]}, {width}] was expected.",
            file=weights.file, tensor=spec.name,
        )  # fmt: skip
