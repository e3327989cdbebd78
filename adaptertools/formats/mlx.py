"""MLX-LM's folder: adapters.safetensors and an adapter_config.json that is not PEFT's.

Factors lie transposed: lora_a (in, r), lora_b (r, out); those of stacked experts do not. One rank
and one scale hold for all, and full names in `keys` say which modules. Facts from
mlx_lm/tuner/utils.py and lora.py; a DoRA's `m` is PEFT's magnitude, except of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import checkpoint
from adaptertools.adapter import Adapter
from adaptertools.errors import Unsupported, first
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._mlx_names import expert, is_embedding, renamed
from adaptertools.formats._mlx_read import CONFIG, WEIGHTS, read
from adaptertools.formats._mlx_stack import Stacks
from adaptertools.formats._modules import Module, common_scale, modules, shape_for
from adaptertools.formats._normal import save
from adaptertools.formats._peft_write import config_text

if TYPE_CHECKING:
    from adaptertools.update import Array

__all__ = ["HOLDS", "LACKS", "PROVED", "SUFFIX", "matches", "read", "write"]

HOLDS = frozenset({"dora", "embedding"})
SUFFIX = ""
LACKS = "biases of lora_B, convolutions, saved modules, token rows"
PROVED = "mlx-lm 0.32.2"
_LAYER = re.compile(r"\.(?:layers|h)\.(\d+)\.")
_KNOWN = re.compile(
    r"^(?:model|language_model\.model)\.(?:layers|h)\.\d+\.|(?:^|\.)(?:embed_tokens|wte|wpe|lm_head)$"
)


def matches(files: Collection[str]) -> bool:
    """Tell whether there are MLX-LM's weights."""
    return WEIGHTS in files


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write config and weights, with full module names in `keys`.

    Raises Unsupported for a DoRA of an embedding or of experts, and where the base's embeddings
    are tied, which MLX-LM takes for one; Mismatch where experts are not all there.
    """
    dora = any("lora_magnitude_vector" in entry.parts for entry in adapter.entries)
    base = checkpoint.read_json(ask.base / "config.json") if ask.base else {}
    _check(adapter, base, dora)
    scale = common_scale(adapter)
    shape = shape_for(adapter, ask, scale=scale, uniform=True)
    wrote = Wrote(files=[CONFIG, WEIGHTS], tensors=0, nbytes=0)
    stacks = Stacks(adapter, base)
    keys: dict[str, None] = {}
    items = _tensors(modules(adapter, shape, wrote), stacks, keys)
    wrote.tensors, wrote.nbytes = save(draft / WEIGHTS, items)
    text = config_text(_config(adapter, list(keys), shape.rank or adapter.rank, scale, dora))
    (draft / CONFIG).write_text(text, "utf-8")
    wrote.findings += stacks.findings
    if odd := [key for key in keys if not _KNOWN.search(key)]:
        wrote.findings.append(stacks.note(
            "CNV021", f"MLX-LM's names of such modules were not checked: {first(odd, 3)}. Where "
            "they differ from transformers', MLX-LM refuses to load them.",
        ))  # fmt: skip
    return wrote


def _check(adapter: Adapter, base: Mapping[str, Any], dora: bool) -> None:
    embeddings = [e.target for e in adapter.entries if "lora_embedding_A" in e.parts]
    stacked = [e.target for e in adapter.entries if expert(e.target)]
    if dora and embeddings:
        raise Unsupported(
            f"{first(embeddings)}: MLX-LM's DoRA scales an embedding by token, PEFT's by column; "
            "neither can be said as the other. Merge it into its base instead."
        )
    if dora and stacked:
        raise Unsupported(
            f"{first(stacked, 2)}: MLX-LM has no DoRA of experts. Merge it into its base instead."
        )
    if without := [e.target for e in adapter.entries if dora and not _magnitude(e.parts)]:
        raise Unsupported(
            f"{first(without)}: no magnitude, and others have one; MLX-LM's DoRA is of all "
            "modules. Save the adapter again."
        )
    heads = [e.target for e in adapter.entries if e.target.rpartition(".")[2] == "lm_head"]
    if base.get("tie_word_embeddings") and (embeddings or heads):
        raise Unsupported(
            f"{first([*embeddings, *heads])}: the base's embeddings are tied. MLX-LM applies one "
            "update to both ends of the model, PEFT each on its own. Merge it into its base."
        )
    if unlike := [t for t in embeddings if not is_embedding(t)]:
        raise Unsupported(
            f"{first(unlike)}: an embedding that is not called one. Its factors would be read "
            "back as those of a linear layer. Merge it into its base instead."
        )


def _magnitude(parts: Mapping[str, object]) -> bool:
    return "lora_magnitude_vector" in parts


def _tensors(
    found: Iterator[Module], stacks: Stacks, keys: dict[str, None]
) -> Iterator[tuple[str, Array]]:
    """Give every tensor under MLX's name, and note the modules."""
    for module in found:
        if expert(module.target):
            stacks.add(module)
            continue
        name = renamed(module.target)
        keys[name] = None
        yield f"{name}.lora_a", module.down.T
        yield f"{name}.lora_b", module.up.T
        if module.magnitude is not None:
            yield f"{name}.m", module.magnitude.reshape(-1)
    for name, down, up in stacks.whole():
        keys[name] = None
        yield f"{name}.lora_a", down
        yield f"{name}.lora_b", up


def _config(
    adapter: Adapter, keys: list[str], rank: int, scale: float, dora: bool
) -> dict[str, Any]:
    layers = [int(match[1]) for key in keys if (match := _LAYER.search(key))]
    named = {"model": adapter.base} if adapter.base else {}
    return named | {
        "fine_tune_type": "dora" if dora else "lora", "num_layers": max(layers, default=-1) + 1,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys},
    }  # fmt: skip
