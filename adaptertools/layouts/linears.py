"""Which 2-D weights transformers would quantise with bitsandbytes, and which it leaves in 16 bit.

It replaces modules whose type is nn.Linear or Conv1D, but for tied weights, the output embedding,
the last parameter and what is kept in float32 (transformers 5.23: integrations/bitsandbytes.py,
quantizers/base.py, quantizers_utils.py). Which modules those are is recorded in linears.json.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from adaptertools.errors import Unsupported, shown
from adaptertools.layouts._linear_models import find, leaves, placed, skipper
from adaptertools.tensorfile import TensorSpec

# One expert of many, stored by itself; its router is a weight like any other.
_EXPERT = re.compile(r"(.*\bexperts)\.\d+\..+")
# What a name alone does not make a linear layer, or not one to quantise.
_NOT_LINEAR = re.compile(
    r"embed|wte|wpe|lm_head|output|norm|gate$|router|conv|score|classifier|(?:^|[._])heads?(?:$|[._])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linears:
    """What becomes of the 2-D weights of a checkpoint that is quantised as transformers would."""

    convert: tuple[str, ...]  # tensors that are quantised
    leave: tuple[str, ...]  # modules, as the model names them, that an explicit skip list names
    transposed: frozenset[str]  # those of `convert` that are stored (in, out) and packed (out, in)
    experts: tuple[str, ...]  # tensors of fused experts, which stay in 16 bit
    known: bool  # False where the class is not in the table and names had to decide


def linears(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> Linears:
    """Sort the weights of a 16-bit checkpoint into those that are quantised and those that are not.

    `tensors` are the checkpoint's, by name, with their logical shapes; `config` is its config.json.
    In doubt a weight stays in 16 bit. `leave` as `llm_int8_skip_modules` makes the loader agree: it
    hits nothing of `convert` (a name that would is written ^name$), and has a pattern for all else
    where the model may call a weight otherwise. Raises Unsupported where transformers loads no such
    checkpoint (Llama 4). Rules: see the module.
    """
    model = find(config)
    if model is None:
        return _by_names(tensors)
    convert: dict[str, str] = {}
    experts: list[str] = []
    transposed: set[str] = set()
    leave = dict.fromkeys(model.always)
    strange = False
    for name, spec in tensors.items():
        full, kind = placed(name, model)
        path = full.removesuffix(".weight")
        if kind == "experts" or (not kind and _of_expert(spec)):
            experts.append(name)
            leave |= dict.fromkeys(_EXPERT.findall(name))
            strange |= not kind
        elif len(spec.shape) != 2:
            continue
        elif kind in ("linear", "conv1d") and not model.skips(path):
            convert[name] = path
            transposed |= {name} if kind == "conv1d" else set()
        elif path != full:
            leave[path] = None
            strange |= not kind
        else:  # perhaps linear layers merged, as torch's MultiheadAttention has them
            strange |= not kind and bool(re.search(r"(weight|proj)[^.]*$", name))
    if experts and model.unpacked:
        raise Unsupported(
            f"{shown(config['model_type'])}: transformers loads no packed checkpoint with experts "
            f"that are stored fused, as in {shown(experts[0])}. Keep the weights in 16 bit."
        )
    others = [_all_but(convert.values())] if strange else []
    return Linears(
        convert=tuple(convert),
        leave=(*_harmless(leave, convert.values()), *others),
        transposed=frozenset(transposed),
        experts=tuple(experts),
        known=True,
    )


def _of_expert(spec: TensorSpec) -> bool:
    fused = len(spec.shape) > 2 and ".experts." in spec.name
    return fused or (len(spec.shape) == 2 and bool(_EXPERT.match(spec.name)))


def _all_but(paths: Collection[str]) -> str:
    """Give a pattern for every other module: some have names in the model that are not known."""
    return rf"^(?!(?:{'|'.join(map(re.escape, paths))})$).+$"


def _harmless(leave: Collection[str], converted: Collection[str]) -> tuple[str, ...]:
    """Write a skip list so that it hits nothing else: names are patterns and suffixes there."""
    names = [name if re.fullmatch(r"[\w.-]+", name) else re.escape(name) for name in leave]
    everything = skipper(names)
    hit = [path for path in converted if everything(path)]
    return tuple(f"^{name}$" if hit and any(map(skipper([name]), hit)) else name for name in names)


def _by_names(tensors: Mapping[str, TensorSpec]) -> Linears:
    """Judge by names alone: only what is called as linear modules are, and not what heads are."""
    convert: list[str] = []
    experts: list[str] = []
    leave = {"lm_head": None}
    for name, spec in tensors.items():
        path = name.removesuffix(".weight")
        if _of_expert(spec):
            experts.append(name)
            leave |= dict.fromkeys(_EXPERT.findall(name))
        elif len(spec.shape) == 2 and path != name:
            if path.rpartition(".")[2] in leaves() and not _NOT_LINEAR.search(path):
                convert.append(name)
            else:
                leave[path] = None
    return Linears(
        convert=tuple(convert),
        leave=_harmless(leave, [name.removesuffix(".weight") for name in convert]),
        transposed=frozenset(),
        experts=tuple(experts),
        known=False,
    )
