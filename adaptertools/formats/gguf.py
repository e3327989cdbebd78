"""llama.cpp's GGUF adapters: one file, tensors by the base's GGUF names.

Facts from llama.cpp's llama-adapter.cpp: lora_a (r, in) and lora_b (out, r) as PEFT has them, the
embedding's lora_a turned; experts stacked; each update times alpha / r, where r is its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Unsupported, shown
from adaptertools.formats import Ask, Wrote, _gguf_base, _gguf_fused, _gguf_names, _gguf_store
from adaptertools.formats._gguf_base import Base
from adaptertools.formats._gguf_blocks import interleaved
from adaptertools.formats._gguf_names import Place
from adaptertools.formats._gguf_read import read as read
from adaptertools.formats._gguf_write import Line, save
from adaptertools.formats._modules import Module, Shape, modules, roles, shape_for
from adaptertools.report import Finding

if TYPE_CHECKING:
    from adaptertools.update import Array

HOLDS = frozenset({"embedding"})
SUFFIX = ".gguf"
DTYPES = frozenset({"Q8_0"})  # besides those of safetensors
LACKS = "DoRA, biases, saved modules, token rows, convolutions; embeddings only where untied"
PROVED = "llama.cpp of llama-cpp-python 0.3.36, gguf 0.19.0"
NAME = "adapter.gguf"

_Group = list[tuple[Entry, Place]]
_HUB = "https://huggingface.co/"


def matches(files: Collection[str]) -> bool:
    """Tell whether there is a GGUF file, and no PEFT adapter that it only lies beside."""
    return "adapter_config.json" not in files and any(f.endswith(SUFFIX) for f in files)


@dataclass(frozen=True, slots=True)
class _Job:
    adapter: Adapter
    base: Base
    alpha: float
    ask: Ask
    wrote: Wrote


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write one file; factors whose scale is alpha / r stay as they are, bit for bit.

    `ask.base` or the option `base_gguf` says the architecture; the option `arch` says it for a
    model type that is not known. Raises Unsupported for an architecture that llama.cpp reorders and
    for tied embeddings, Mismatch for modules that the base does not have.
    """
    base = _gguf_base.asked(ask)
    shape_for(adapter, ask)  # refuses a rank that is too small
    wrote = Wrote(files=[NAME], tensors=0, nbytes=0)
    job = _Job(adapter, base, _alpha(adapter, ask.rank or 0), ask, wrote)
    groups = _groups(job)
    _said_names(job, groups)
    lines = (line for name, group in groups.items() for line in _stored(job, name, group))
    wrote.tensors, wrote.nbytes = save(draft / NAME, _keys(job), lines)
    return wrote


def _alpha(adapter: Adapter, least: int) -> float:
    """Choose alpha so that alpha / r is the scale of most modules, as float32 holds it."""
    import numpy as np

    counted = Counter(entry.scale * max(_rank(entry), least) for entry in adapter.entries)
    alpha = max(counted, key=lambda a: (counted[a], -a))
    # llama.cpp takes 0 for "no alpha", which is a scale of 1.
    return float(np.float32(alpha)) if alpha > 0 else 1.0


def _rank(entry: Entry) -> int:
    return entry.parts[roles(entry)[0]].rows


def _groups(job: _Job) -> dict[str, _Group]:
    """Sort modules by the tensor that holds them, and refuse those that none can."""
    groups: defaultdict[str, _Group] = defaultdict(list)
    for entry in job.adapter.entries:
        place = _gguf_names.place(job.base.known, entry.target)
        _gguf_base.check(job.base, place, entry.target)
        if odd := entry.parts.keys() - set(roles(entry)):
            raise Unsupported(f"{shown(entry.target)} has {shown(min(odd))}, which GGUF has not.")
        if ("lora_embedding_A" in entry.parts) != (place.part == "token_embd"):
            raise Unsupported(
                f"{shown(entry.target)} is stored as {min(entry.parts)}, and llama.cpp has a "
                "layer of another kind there. Is it another model?"
            )
        groups[_gguf_fused.home(job.base, place)].append((entry, place))
    return groups


def _said_names(job: _Job, groups: dict[str, _Group]) -> None:
    """Say where reading the file gives other names: those of a bare model, or of an alias."""
    other = [
        entry.target
        for group in groups.values()
        for entry, place in group
        if _gguf_names.target(job.base.known, place.name)[1].format(place.expert) != entry.target
    ]
    if other:
        job.wrote.findings.append(Finding(
            code="CNV103", level="note", place=other[0],
            text=f"GGUF has names for weights, not for modules: {len(other)} modules would be "
                 "called as in the model with its head when the file is read back."))  # fmt: skip


def _stored(job: _Job, name: str, group: _Group) -> Iterator[Line]:
    """Give the two tensors of a weight."""
    parts: defaultdict[str, _Group] = defaultdict(list)
    for entry, place in group:
        parts[place.part].append((entry, place))
    ranks = {part: max(_rank(each) for each, _ in found) for part, found in parts.items()}
    over = max(sum(ranks.values()), job.ask.rank or 0)
    ranks[group[0][1].part] += over - sum(ranks.values())
    pieces = {part: _piece(job, found, ranks[part], over) for part, found in parts.items()}
    down, up = pieces[group[0][1].part]
    if group[0][1].name != name:
        down, up = _gguf_fused.fused(job.base, name, pieces)
    if group[0][1].part == "token_embd":
        _gguf_base.fits(job.base, name, (down.shape[1], up.shape[0]))
        down = down.T
    else:
        _gguf_base.fits(job.base, name, (up.shape[-2], down.shape[-1]))
    for suffix, values in (("lora_a", down), ("lora_b", up)):
        yield _gguf_store.line(f"{name}.{suffix}", values, job.ask.dtype, job.wrote)


def _piece(job: _Job, group: _Group, rank: int, over: int) -> tuple[Array, Array]:
    """Give the factors of one weight of the model, padded; llama.cpp divides alpha by `over`."""
    if group[0][1].expert is None and len(group) > 1:
        raise Unsupported(
            f"{shown(group[0][0].target)} and {shown(group[1][0].target)} are both "
            f"{shown(group[0][1].name)}. Save the adapter again from one model."
        )
    pairs = [_pair(job, entry, rank, over) for entry, _ in group]
    return pairs[0] if group[0][1].expert is None else _stack(job, group, pairs)


def _pair(job: _Job, entry: Entry, rank: int, over: int) -> tuple[Array, Array]:
    """Load a module's factors, padded to a rank, with alpha / over taken out of the scale."""
    only = replace(job.adapter, entries=(entry,))
    (module,) = modules(only, Shape(), job.wrote)
    place = _gguf_names.place(job.base.known, entry.target)
    up = _gguf_store.folded(module.up, entry.scale * over / job.alpha, entry.target, job.wrote)
    if heads := job.base.rows(place.part):
        up = interleaved(up, heads, entry.target)
    return _padded(module, up, rank, job.wrote)


def _padded(module: Module, up: Array, rank: int, wrote: Wrote) -> tuple[Array, Array]:
    import numpy as np

    more = rank - module.rank
    if not more:
        return module.down, up
    wrote.padded.append(module.target)
    zero, rows = np.zeros((more, module.down.shape[1]), module.down.dtype), up.shape[0]
    return np.concatenate([module.down, zero]), np.concatenate(
        [up, np.zeros((rows, more), up.dtype)], axis=1
    )


def _stack(job: _Job, group: _Group, pairs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Stack the experts of a layer; those without a LoRA are zeros."""
    import numpy as np

    held = {place.expert: pair for (_, place), pair in zip(group, pairs, strict=True)}
    count = job.base.experts
    if count is None:
        raise Unsupported(
            f"{shown(group[0][0].target)}: nothing says how many experts the base has. Pass --base."
        )
    if len(held) < len(group) or len({(d.shape, u.shape) for d, u in pairs}) > 1:
        raise Unsupported(f"{shown(group[0][0].target)}: experts of a layer differ in shape.")
    if missing := count - len(held):
        job.wrote.findings.append(Finding(
            code="CNV101", level="note", place=group[0][0].target,
            text=f"{missing} of {count} experts have no LoRA here and get zeros."))  # fmt: skip
    zeros = [np.zeros_like(values) for values in pairs[0]]
    every = [held.get(i, zeros) for i in range(count)]
    down, up = (_gguf_store.alike([pair[side] for pair in every]) for side in (0, 1))
    return np.stack(down), np.stack(up)


def _keys(job: _Job) -> dict[str, str | float | int | list[int]]:
    """Give what llama.cpp asks for, and what turns the file back into PEFT's."""
    base, config = job.base, job.adapter.config
    keys: dict[str, str | float | int | list[int]] = {
        "general.architecture": base.arch, "general.type": "adapter", "adapter.type": "lora",
        "adapter.lora.alpha": job.alpha,
    }  # fmt: skip
    if name := job.adapter.base:
        keys |= {"general.base_model.count": 1, "general.base_model.0.name": name}
        if name.count("/") == 1 and not name.startswith((".", "/")):
            keys["general.base_model.0.repo_url"] = _HUB + name
    for key, value in (("attention.head_count", base.heads),
                       ("attention.head_count_kv", base.kv_heads),
                       ("block_count", base.blocks)):  # fmt: skip
        if value is not None:
            keys[f"{base.arch}.{key}"] = value
    tokens = config.get("alora_invocation_tokens")
    if isinstance(tokens, list) and all(type(t) is int and 0 <= t < 2**32 for t in tokens):
        keys["adapter.alora.invocation_tokens"] = tokens
        job.wrote.findings.append(Finding(
            code="CNV102", level="warning", place=NAME,
            text="This is an activated LoRA: llama-server applies it from its invocation tokens "
                 "on, and other programs on llama.cpp to every token."))  # fmt: skip
    return keys
