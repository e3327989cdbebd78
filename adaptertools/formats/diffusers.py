"""diffusers' pytorch_lora_weights.safetensors: PEFT's factors, named by part of the pipeline.

The header's `lora_adapter_metadata` is each part's LoraConfig; without it, alpha is the rank.
Facts from diffusers/loaders/lora_base.py. Older spellings of names are read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Unreadable, Unsupported, first, shown
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._components import COMPONENTS, parted
from adaptertools.formats._modules import Module, modules, shape_for
from adaptertools.formats._normal import PT, save, spooled
from adaptertools.formats._peft_write import key
from adaptertools.formats._scaled import scaled_config, whole
from adaptertools.patterns import pattern_value
from adaptertools.tensorfile import Header, TensorSpec, read_header

if TYPE_CHECKING:
    from adaptertools.update import Array

HOLDS = frozenset({"dora", "conv"})
SUFFIX = ".safetensors"
LACKS = "biases of lora_B, embeddings, saved modules, token rows"
PROVED = "diffusers 0.42.1"
OPTIONS = {"component": "the part of the pipeline, where names do not tell it"}
NAME, METADATA = "pytorch_lora_weights.safetensors", "lora_adapter_metadata"

# What a factor is called, newest first, and what becomes of the name before it.
_ROLES: Mapping[re.Pattern[str], str] = {
    re.compile(r"\.lora_A\.weight$"): "lora_A",
    re.compile(r"\.lora_B\.weight$"): "lora_B",
    re.compile(r"\.lora_magnitude_vector(?:\.weight)?$"): "lora_magnitude_vector",
    re.compile(r"(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight$"): "lora_A",
    re.compile(r"(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight$"): "lora_B",
}
_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")

_Parts = dict[str, TensorSpec]


def matches(files: Collection[str]) -> bool:
    """Tell whether there is a file of diffusers' name."""
    return NAME in files


def read(path: Path, ref: str) -> Adapter:
    """Read a file; modules keep their component's name where there are several components.

    Raises Unreadable for damage and half pairs, Unsupported for tensors that are no factors.
    """
    file = path / NAME if path.is_dir() else path
    header = read_header(file)
    found = _modules(header, file)
    said = _said(header, file)
    several = len({target.partition(".")[0] for target in found}) > 1
    scales, names = {}, {}
    for target, parts in found.items():
        component, _, rest = target.partition(".")
        names[target] = target if several else rest
        scales[names[target]] = _scale(said.get(component), rest, parts["lora_A"].shape[0])
    dora = any("lora_magnitude_vector" in parts for parts in found.values())
    config = scaled_config(scales, use_dora=dora, task_type=None)
    return spooled(config, _renamed(found, names), path, ref, "diffusers")


def _modules(header: Header, file: Path) -> dict[str, _Parts]:
    found: dict[str, _Parts] = {}
    odd = []
    for name, spec in header.tensors.items():
        role, target = _taken(name)
        if not role or target.partition(".")[0] not in COMPONENTS:
            odd.append(name)
            continue
        found.setdefault(target, {})[role] = spec
    if odd:
        raise Unsupported(
            f"{shown(file)}: {first(odd, 3)} are no factors of diffusers' LoRA, and leaving them "
            "out could change the result. If it is kohya's, name it without this file name."
        )
    half = [t for t, parts in found.items() if not {"lora_A", "lora_B"} <= parts.keys()]
    if half or not found:
        raise Unreadable(
            f"{shown(file)}: {first(half) or 'no module'} has not both factors. Fetch it again."
        )
    return found


def _taken(name: str) -> tuple[str, str]:
    """Take a name apart into role and module."""
    for pattern, role in _ROLES.items():
        if match := pattern.search(name):
            target = _PROCESSOR.sub(r".\1", name[: match.start()])
            return role, f"{target}.0" if target.endswith(".to_out") else target
    return "", name


def _said(header: Header, file: Path) -> dict[str, dict[str, Any]]:
    """Give each component's config, as the header has it."""
    text = header.metadata.get(METADATA)
    if text is None:
        return {}
    try:
        flat = json.loads(text)
    except (ValueError, RecursionError):
        flat = None
    if not isinstance(flat, dict):
        raise Unreadable(f"{shown(file)}: {METADATA} in its header is no JSON object.")
    made: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        component, _, rest = name.partition(".")
        made.setdefault(component, {})[rest] = value
    return made


def _scale(said: Mapping[str, Any] | None, target: str, stored: int) -> tuple[int, float]:
    """Give rank and alpha of a module; alpha is the rank where nothing is said."""
    if said is None:
        return stored, float(stored)
    rank = pattern_value(said, "rank_pattern", target, said.get("r", stored))
    alpha = pattern_value(said, "alpha_pattern", target, said.get("lora_alpha", stored))
    if rank != stored:
        raise Unreadable(
            f"{shown(target)}: its factors have rank {stored}, {METADATA} says {shown(rank)}."
        )
    return stored, alpha * (stored**0.5 if said.get("use_rslora") else 1)


def _renamed(
    found: Mapping[str, _Parts], names: Mapping[str, str]
) -> Iterator[tuple[str, Array]]:  # fmt: skip
    for target, parts in found.items():
        for role, spec in parts.items():
            name = key(names[target], role)
            name = name.removesuffix(".weight") if role.endswith("vector") else name
            yield name, tensorfile.read(spec)


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write one file; tensors stay as they are, and the header says each one's scale.

    Raises Unsupported where a module's component is not known.
    """
    parts = parted((e.target for e in adapter.entries), ask.options.get("component", ""))
    wrote = Wrote(files=[NAME], tensors=0, nbytes=0)
    shape = shape_for(adapter, ask)
    items = (pair for module in modules(adapter, shape, wrote) for pair in _named(module, parts))
    metadata = {**PT, METADATA: json.dumps(_metadata(adapter, parts, shape.rank), sort_keys=True)}
    wrote.tensors, wrote.nbytes = save(draft / NAME, items, metadata)
    return wrote


def _named(module: Module, parts: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, Array]]:
    start = ".".join(parts[module.target])
    yield f"{start}.lora_A.weight", module.down
    yield f"{start}.lora_B.weight", module.up
    if module.magnitude is not None:
        yield f"{start}.lora_magnitude_vector", module.magnitude


def _metadata(
    adapter: Adapter, parts: Mapping[str, tuple[str, str]], rank: int | None
) -> dict[str, Any]:
    """Say each component's LoraConfig, flat, with its name before every key."""
    held: dict[str, dict[str, tuple[int, float]]] = {}
    for entry in adapter.entries:
        component, name = parts[entry.target]
        size = rank or entry.rank
        held.setdefault(component, {})[name] = (size, whole(entry.scale * size))
    dora = any("lora_magnitude_vector" in entry.parts for entry in adapter.entries)
    return {
        f"{component}.{name}": value
        for component, modules_ in held.items()
        for name, value in scaled_config(modules_, use_dora=dora).items()
    }
