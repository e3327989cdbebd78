"""What linears.json says of a model: which modules are linear, and what checkpoints call them.

The table is of models as transformers builds them; tests/layouts/generate_linears.py writes it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from adaptertools.layouts import known

_KINDS = ("linear", "conv1d", "other", "experts", "plain")


@dataclass(frozen=True, slots=True)
class Model:
    """What the table says of one config."""

    kinds: Mapping[str, str]  # template of a tensor's name in the model -> its kind
    prefixes: tuple[str, ...]
    renames: tuple[tuple[re.Pattern[str], str], ...]
    always: tuple[str, ...]  # of the default skip list, to be named whether stored or not
    skips: Callable[[str], bool]  # whether a module is on that list, or is not in the model at all
    unpacked: bool  # whether its fused experts become modules when a packed checkpoint is loaded


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
            yield from (name,) if kind in ("experts", "plain") else ()
            yield from (f"{name}.weight",) if kind != "plain" else ()


def _kinds(line: Mapping[str, Any], at: str) -> dict[str, str]:
    return {at + name: kind for kind in _KINDS for name in _names(line, kind)}


def _lines(kind: str, config: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """Give the table's lines for a config and for the models that it nests, with their paths."""
    line = _table().get(kind)
    if line:
        yield at, line
    for path, (key, default) in (line or {}).get("parts", {}).items():
        nested = config.get(key)
        nested = nested if isinstance(nested, Mapping) else {}
        yield from _lines(str(nested.get("model_type", default)), nested, f"{at}{path}.")


def find(config: Mapping[str, Any]) -> Model | None:
    """Look up the model class of a config, or else its base model; None where neither is known."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    kind = str(config.get("model_type"))
    if name not in _table().get(kind, {}).get("classes", ()):
        if "auto_map" in config:
            return None  # custom code may use a known model type for modules of its own
        kind = next((k for k, line in _table().items() if name in line["classes"]), kind)
    if kind not in _table():
        return None
    entry = _table()[kind]["classes"].get(name)
    prefix = known.prefix(config)
    ats = {"", prefix} if entry is None else {entry.get("at", prefix)}
    kinds = _kinds(entry or {}, "")
    lines = [found for at in sorted(ats) for found in _lines(kind, config, f"{at}." if at else "")]
    for at, one in lines:
        kinds |= _kinds(one, at)
    keys = ("lm_head",) if entry is None else entry.get("skip", ())
    fp32 = {key for _, one in lines for key in one.get("fp32", ())}
    hits = skipper({_regex(key) for key in (*keys, *fp32)})
    ignored = {key for _, one in lines for key in one.get("ignored", ())}
    renames = {tuple(pair) for _, one in lines for pair in one.get("renames", ())}
    return Model(
        kinds=kinds,
        prefixes=tuple(sorted({f"{at}." for at in (*ats, prefix) if at})),
        renames=tuple(_renaming(theirs, ours) for theirs, ours in sorted(renames)),
        always=tuple(key for key in keys if _template(key) == key == _regex(key)),
        skips=lambda path: hits(path) or _beyond(path, ignored, config),
        unpacked=any("unpacked" in one for _, one in lines),
    )


def _beyond(path: str, ignored: Collection[str], config: Mapping[str, Any]) -> bool:
    """Tell whether a layer is one that checkpoints have after the model's last."""
    if not any(re.search(key, path) for key in ignored):
        return False
    nested = [part for part in config.values() if isinstance(part, Mapping)]
    depths = [part.get("num_hidden_layers") for part in (config, *nested)]
    depth = max((n for n in depths if isinstance(n, int)), default=0)
    return any(int(layer) >= depth for layer in re.findall(r"\blayers\.(\d{1,9})\b", path))


def _renaming(theirs: str, ours: str) -> tuple[re.Pattern[str], str]:
    groups = count(1)
    indexed = _regex(theirs.replace(".", "[.]")).replace(r"\d+", r"(\d+)")
    written = re.sub(r"\bN\b", lambda _: rf"\g<{next(groups)}>", ours)
    return re.compile(rf"(?<![^.]){indexed}(?=[.])"), written


def skipper(keys: Collection[str]) -> Callable[[str], bool]:
    """Give the test of should_convert_module (transformers/quantizers/quantizers_utils.py)."""
    starts = re.compile(rf"(?:{'|'.join(sorted(keys))})(?:(?<=\.)|(?=\.|$))")
    return lambda path: bool(starts.match(path)) or path.endswith(tuple(keys))


def placed(name: str, model: Model) -> tuple[str, str]:
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


@cache
def leaves() -> frozenset[str]:
    """Name what linear modules of many model types are called, and no other module of any."""
    counts = {kind: Counter[str]() for kind in _KINDS[:3]}
    for line in _table().values():
        for kind, names in counts.items():
            names.update({name.split(".")[-2] for name in _names(line, kind)})
    linear, *others = counts.values()
    return frozenset(n for n in linear if linear[n] >= 10 and not any(o[n] for o in others))
