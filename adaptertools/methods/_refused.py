"""Methods of PEFT and AdapterHub that no fixed weight can stand for, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from adaptertools import plugins
from adaptertools.errors import AdapterToolsError, UnknownMethod, Unsupported, shown


class Refused(NamedTuple):
    """Why a method cannot be merged, what to do instead, and its paper."""

    why: str
    instead: str
    paper: str = ""


_SERVE = "Serve it as an adapter, with PEFT"
_TRAIN = f"{_SERVE}, or train a LoRA on the same data where one model is wanted"
_HUB = "Serve it with the adapters library"

REFUSED: Mapping[str, Refused] = {
    "ADAMSS": Refused(
        "which rows its parts belong to comes from a k-means over a random factorisation of the "
        "base, and is not in the file",
        "Merge it with PEFT's merge_and_unload, on the library versions that it was trained with",
    ),
    "ADAPTION_PROMPT": Refused(
        "it adds gated attention over trained prompts (LLaMA-Adapter) and changes no weight",
        _TRAIN,
        "https://arxiv.org/abs/2303.16199",
    ),
    "CARTRIDGE": Refused(
        "it is a trained key-value cache and changes no weight",
        _SERVE,
        "https://arxiv.org/abs/2506.06266",
    ),
    "CPT": Refused(
        "it is trained vectors before the input and changes no weight",
        _TRAIN,
        "https://arxiv.org/abs/2410.17222",
    ),
    "BOTTLENECK": Refused(
        "its layers have an activation between them, of AdapterHub's adapters library",
        _HUB,
        "https://arxiv.org/abs/1902.00751",
    ),
    "COMPACTER": Refused(
        "its layers have an activation between them, of AdapterHub's adapters library",
        _HUB,
        "https://arxiv.org/abs/2106.04647",
    ),
    "GATED_LORA": Refused("a gate weighs its updates by the input", _HUB),
    "MTL_LORA": Refused(
        "it holds several up projections, weighed for each task",
        _HUB,
        "https://arxiv.org/abs/2410.09437",
    ),
    "REFT": Refused(
        "it edits hidden states at some places of the input, and changes no weight",
        _HUB,
        "https://arxiv.org/abs/2404.03592",
    ),
    "SOFT_PROMPT": Refused(
        "it is trained vectors before the input, of AdapterHub's adapters library, and changes no "
        "weight",
        _HUB,
        "https://arxiv.org/abs/2104.08691",
    ),
    "UNION_OF_ADAPTERS": Refused("it is adapters of several kinds at once", _HUB),
    "LILY": Refused(
        "a router mixes its up projections for each token",
        _SERVE,
        "https://arxiv.org/abs/2407.09946",
    ),
    "MULTITASK_PROMPT_TUNING": Refused(
        "it is trained vectors before the input, one set for each task, and changes no weight",
        _TRAIN,
        "https://arxiv.org/abs/2303.02861",
    ),
    "POLY": Refused(
        "it mixes its skills anew for each task",
        _SERVE,
        "https://arxiv.org/abs/2202.13914",
    ),
    "PREFIX_TUNING": Refused(
        "it is trained keys and values before those of the input and changes no weight",
        _TRAIN,
        "https://arxiv.org/abs/2101.00190",
    ),
    "PROMPT_TUNING": Refused(
        "it is trained vectors before the input and changes no weight",
        _TRAIN,
        "https://arxiv.org/abs/2104.08691",
    ),
    "P_TUNING": Refused(
        "it is vectors that a trained encoder puts before the input, and changes no weight",
        _TRAIN,
        "https://arxiv.org/abs/2103.10385",
    ),
    "SHADOW": Refused("a second, smaller model runs beside the base", _SERVE),
    "XLORA": Refused(
        "a classifier weighs its LoRAs for each token",
        f"{_SERVE}, or merge one of its LoRAs",
        "https://arxiv.org/abs/2402.07148",
    ),
}

# Not PEFT's: what formats/adapterhub.py calls the methods that PEFT has not.
ADAPTERHUB = frozenset({"BOTTLENECK", "COMPACTER", "GATED_LORA", "MTL_LORA", "REFT", "SOFT_PROMPT",
                        "UNION_OF_ADAPTERS"})  # fmt: skip

REMOVED = {
    "BONE": "PEFT took it out in 0.19; MISS has its place, and is the same with other names. "
    "Convert it with PEFT's scripts/convert-bone-to-miss.py.",
}


def refusal(peft_type: str, ref: str, what: str = "merged") -> AdapterToolsError:
    """Give the error for a type that has no file here, naming the adapter and what it cannot be."""
    name = peft_type.upper()
    if found := REFUSED.get(name):
        return Unsupported(
            f"{shown(ref)} is of type {name}, which cannot be {what}: {found.why}. {found.instead}."
        )
    if why := REMOVED.get(name):
        return Unsupported(f"{shown(ref)} is of type {name}. {why}")
    known = [file.upper() for file in plugins.names("methods")]
    near = get_close_matches(name[:100], [*known, *REFUSED], n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else ""
    return UnknownMethod(
        f"{shown(ref)} has peft_type {shown(peft_type)}, which no PEFT up to 0.21 knows.{hint} "
        f"Those that can be merged: {', '.join(known)}."
    )
