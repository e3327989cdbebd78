"""Which 2-D weights transformers would quantise with bitsandbytes, and which it leaves in 16 bit.

It replaces modules whose type is nn.Linear or Conv1D, but for a skip list: tied weights, the output
embedding, the last parameter, and what is kept in float32 (transformers 5.23:
integrations/bitsandbytes.py, quantizers/base.py, quantizers_utils.py). Which modules those are is
recorded in linears.json; a file shows only names and shapes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adaptertools.layouts import known
from adaptertools.tensorfile import TensorSpec

_KINDS = ("linear", "conv1d", "other", "experts")
_BOUNDARY = r"(?:(?<=\.)|(?=\.|$))"
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


@dataclass(frozen=True, slots=True)
class _Model:
    """What the table says of one config."""

    kinds: Mapping[str, str]  # template of a tensor's name in the model -> its kind
    prefixes: tuple[str, ...]
    renames: tuple[tuple[re.Pattern[str], str], ...]
    always: tuple[str, ...]  # of the default skip list, to be named whether stored or not
    skips: Callable[[str], bool]
    ignored: tuple[str, ...]


def linears(config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> Linears:
    """Sort the weights of a 16-bit checkpoint into those that are quantised and those that are not.

    `tensors` are the checkpoint's, by name, with their logical shapes; `config` is its config.json.
    In doubt a weight stays in 16 bit and is in `leave`, which makes the loader agree. `leave` as
    `llm_int8_skip_modules` hits nothing of `convert`; a name that would, or that is not known, is
    written as a regular expression from ^ to $. Rules: see the module.
    """
    model = _model(config)
    if model is None:
        return _by_names(tensors)
    convert: dict[str, str] = {}
    experts: list[str] = []
    transposed: set[str] = set()
    leave = dict.fromkeys(model.always)
    strange = False
    for name, spec in tensors.items():
        full, kind = _placed(name, model)
        path = full.removesuffix(".weight")
        if kind == "experts" or (not kind and len(spec.shape) > 1 and _EXPERT.match(name)):
            experts.append(name)
            leave |= dict.fromkeys(_EXPERT.findall(name))
        elif len(spec.shape) != 2 or path == full:
            continue
        elif kind in ("linear", "conv1d") and not _left(path, model):
            convert[name] = path
            transposed |= {name} if kind == "conv1d" else set()
        else:
            leave[path] = None
            strange |= not kind
    # Of a strange name, what it is to the model is not known; it must not be replaced there either.
    missing = _missing(model, {*convert.values(), *leave}) if strange else []
    return Linears(
        convert=tuple(convert),
        leave=(*_harmless(leave, convert.values()), *missing),
        transposed=frozenset(transposed),
        experts=tuple(experts),
        known=True,
    )


@cache
def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("linears.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)["models"]
    return table


def _template(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)|(?<=expert_)\d+", "N", f".{name}")[1:]


def _regex(template: str) -> str:
    """Write a template so that every N stands for an index."""
    return re.sub(r"(?<![a-zA-Z])N(?![a-zA-Z])", r"\\d+", template)


def _names(line: Mapping[str, Any], kind: str) -> Iterator[str]:
    for parent, leaves in line.get(kind, {}).items():
        for leaf in leaves.split(" "):
            name = f"{parent}.{leaf}" if parent else leaf
            yield from (name,) if kind == "experts" else ()
            yield f"{name}.weight"


def _kinds(line: Mapping[str, Any], at: str) -> dict[str, str]:
    return {at + name: kind for kind in _KINDS for name in _names(line, kind)}


def _lines(model_type: Any, config: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """Give the table's lines for a config and for the models that it nests, with their paths."""
    line = _table().get(str(model_type))
    if not line:
        return
    yield at, line
    for path, (key, default) in line.get("parts", {}).items():
        nested = config.get(key)
        nested = nested if isinstance(nested, Mapping) else {}
        yield from _lines(nested.get("model_type", default), nested, f"{at}{path}.")


def _model(config: Mapping[str, Any]) -> _Model | None:
    """Look up the model class of a config, or else its base model; None where neither is known."""
    line = _table().get(str(config.get("model_type")))
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    if not line or (name not in line["classes"] and "auto_map" in config):
        return None  # custom code may use a known model type for modules of its own
    entry = line["classes"].get(name)
    prefix = known.prefix(config)
    ats = {"", prefix} if entry is None else {entry.get("at", prefix)}
    kinds = _kinds(entry or {}, "")
    lines = [
        found
        for at in sorted(ats)
        for found in _lines(config["model_type"], config, f"{at}." if at else "")
    ]
    for at, one in lines:
        kinds |= _kinds(one, at)
    keys = ("lm_head",) if entry is None else entry.get("skip", ())
    fp32 = {key for _, one in lines for key in one.get("fp32", ())}
    renames = {tuple(pair) for _, one in lines for pair in one.get("renames", ())}
    return _Model(
        kinds=kinds,
        prefixes=tuple(sorted({f"{at}." for at in (*ats, prefix) if at})),
        renames=tuple(_renaming(theirs, ours) for theirs, ours in sorted(renames)),
        always=tuple(key for key in keys if _template(key) == key == _regex(key)),
        skips=_skipper({_regex(key) for key in (*keys, *fp32)}),
        ignored=tuple({key for _, one in lines for key in one.get("ignored", ())}),
    )


def _renaming(theirs: str, ours: str) -> tuple[re.Pattern[str], str]:
    groups = iter(range(1, 100))
    indexed = _regex(theirs.replace(".", "[.]")).replace(r"\d+", r"(\d+)")
    return re.compile(rf"(?<![^.]){indexed}(?=[.])"), re.sub(
        r"\bN\b", lambda _: rf"\g<{next(groups)}>", ours
    )


def _skipper(keys: Collection[str]) -> Callable[[str], bool]:
    """Give the test of should_convert_module (transformers/quantizers/quantizers_utils.py)."""
    starts = re.compile(rf"(?:{'|'.join(sorted(keys))}){_BOUNDARY}")
    return lambda path: bool(starts.match(path)) or path.endswith(tuple(keys))


def _left(path: str, model: _Model) -> bool:
    return model.skips(path) or any(re.search(key, path) for key in model.ignored)


def _placed(name: str, model: _Model) -> tuple[str, str]:
    """Find a tensor in the model: its name there and its kind, or its own name and nothing."""

    def known_as(name: str) -> Iterator[str]:
        for prefix in ("", *model.prefixes):
            for spelled in (prefix + name, name.removeprefix(prefix)):
                if _template(spelled) in model.kinds:
                    yield spelled

    found = next(known_as(name), None)
    if found is None:
        new = {pattern.sub(ours, name, count=1) for pattern, ours in model.renames}
        places = {place for spelled in new for place in known_as(spelled)}
        found = places.pop() if len(places) == 1 else None
    return (found, model.kinds[_template(found)]) if found else (name, "")


def _missing(model: _Model, named: set[str]) -> list[str]:
    """Give patterns for the linear modules that no tensor was found for."""
    seen = {_template(path) for path in named}
    linear = {
        n.removesuffix(".weight") for n, k in model.kinds.items() if k in ("linear", "conv1d")
    }
    return [f"^{_regex(path)}$" for path in sorted(linear - seen)]


def _harmless(leave: Collection[str], converted: Collection[str]) -> tuple[str, ...]:
    """Write a skip list so that it hits nothing else: names are patterns and suffixes there."""
    names = [name if re.fullmatch(r"[\w.-]+", name) else re.escape(name) for name in leave]
    everything = _skipper(names)
    hit = [path for path in converted if everything(path)]
    return tuple(f"^{name}$" if hit and any(map(_skipper([name]), hit)) else name for name in names)


@cache
def _leaves() -> frozenset[str]:
    """Name what linear modules of many model types are called, and no other module of any."""
    counts = {kind: Counter[str]() for kind in _KINDS[:3]}
    for line in _table().values():
        for kind, count in counts.items():
            count.update({name.split(".")[-2] for name in _names(line, kind)})
    linear, *others = counts.values()
    return frozenset(
        n for n, count in linear.items() if count >= 10 and not any(o[n] for o in others)
    )


def _by_names(tensors: Mapping[str, TensorSpec]) -> Linears:
    """Judge by names alone: only what is called as linear modules are, and not what heads are."""
    convert: list[str] = []
    experts: list[str] = []
    leave = {"lm_head": None}
    for name, spec in tensors.items():
        path = name.removesuffix(".weight")
        if len(spec.shape) > 1 and _EXPERT.match(name):
            experts.append(name)
            leave |= dict.fromkeys(_EXPERT.findall(name))
        elif len(spec.shape) == 2 and path != name:
            if path.rpartition(".")[2] in _leaves() and not _NOT_LINEAR.search(path):
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
