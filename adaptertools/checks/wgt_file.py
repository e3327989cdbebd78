"""WGT: the file itself: dtypes, metadata, containers, prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from adaptertools.checks import _files, check
from adaptertools.checks._files import PICKLED, WEIGHTS
from adaptertools.errors import first, shown
from adaptertools.facts import Facts, Found, Result, Weights

_PLAIN = (int, float, bool)
_USUAL = ("F32", "BF16", "F16")
_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING")


@check("WGT012", "tensors have one usual dtype", level="warning", fix="Convert before publishing.")
def dtypes(weights: Weights, facts: Facts) -> Result:
    """Mixed dtypes are the sign of tensors from two sources; F64 doubles the size for nothing.

    Integers and 8-bit floats are no weights that a loader would add to anything. F32 on a base of
    16 bits is twice as large as what is computed with.
    """
    held = {n: s for n, s in weights.tensors.items() if s.shape and not n.endswith("_indices")}
    counts = Counter(spec.dtype for spec in held.values())
    odd = [dtype for dtype in counts if dtype not in _USUAL]
    if odd:
        name = next(n for n, spec in held.items() if spec.dtype in odd)
        yield Found(
            text=f"{sum(counts[d] for d in odd)} tensors are {first(odd)}, such as {shown(name)}.",
            file=weights.file, tensor=name,
        )  # fmt: skip
    usual = [dtype for dtype in counts if dtype in _USUAL]
    if len(usual) > 1:
        said = ", ".join(f"{counts[dtype]} {dtype}" for dtype in usual)
        yield Found(text=f"Dtypes are mixed: {said}.", file=weights.file)
    wide = facts.base.config if facts.base else {}
    stored = wide.get("dtype") or wide.get("torch_dtype")
    if usual == ["F32"] and stored in ("bfloat16", "float16"):
        text = f"Tensors are F32, and the base is {stored}."
        yield Found(text=text, file=weights.file, level="note")


@check("WGT017", "the file's metadata agrees", level="note", fix="Save it with safetensors anew.")
def metadata(weights: Weights, config: Mapping[str, Any]) -> Result:
    """Older transformers refuse a file whose metadata lacks `format: pt`.

    diffusers keeps a config of its own in `lora_adapter_metadata`, which may disagree.
    """
    if weights.pickled:
        return
    if weights.metadata.get("format") != "pt":
        yield Found(text='__metadata__ has no "format": "pt".', file=weights.file)
    inner = described(weights.metadata.get("lora_adapter_metadata", "{}"))
    if inner is None:
        yield Found(text="lora_adapter_metadata is no JSON object.", file=weights.file)
        return
    for key in ("r", "lora_alpha", "use_rslora"):
        said = [v for k, v in inner.items() if k.rpartition(".")[2] == key and type(v) in _PLAIN]
        if said and key in config and config[key] not in said:
            yield Found(
                text=f"lora_adapter_metadata says {key} {first(said, 3)}, the config "
                f"{shown(config[key])}.",
                pointer=f"/{key}", level="warning", hint="Find out which of them was trained.",
            )  # fmt: skip


def described(text: str) -> dict[str, Any] | None:
    """Read a config that stands in the metadata; None where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@check("WGT018", "containers are whole", fix="Upload the file again; it was cut short.")
def whole(facts: Facts) -> Result:
    """A file that is empty, or shorter than it says it is, was cut off while it was copied."""
    reasons = {p.file: p.refused for p in facts.pickles} | {WEIGHTS: facts.why.get("weights", "")}
    for name in (WEIGHTS, PICKLED):
        file = facts.files.get(name)
        if file is None or file.kind not in ("file", "link") or _files.pointed(file) is not None:
            continue
        if not file.size:
            yield Found(text="It is empty.", file=name)
        elif "cut short" in (why := reasons.get(name, "")):
            yield Found(text=f"It was cut short: it has {file.size} bytes. {why}", file=name)


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
    layers = config.get("num_layers") if config["peft_type"] == "PREFIX_TUNING" else 0
    if type(tokens) is not int or type(width) is not int or type(layers) is not int:
        return
    width *= 2 * layers or 1
    modules = config.get("num_transformer_submodules")
    rows = [tokens, tokens * modules if type(modules) is int else tokens]
    if len(spec.shape) != 2 or spec.shape[0] not in rows or spec.shape[1] != width:
        yield Found(
            text=f"prompt_embeddings is {list(spec.shape)}, [{rows[-1]}, {width}] was expected.",
            file=weights.file, tensor=spec.name,
        )  # fmt: skip
