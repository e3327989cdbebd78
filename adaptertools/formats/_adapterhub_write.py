"""LoRA and (IA)³ as AdapterHub's library saves them: one rank, and the same modules in each layer.

What a layer lacks is written as zeros, or as ones of (IA)³; layers with nothing are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import checkpoint, tensorfile
from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import NotFound, Unsupported, shown
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._adapterhub_kinds import CONFIG
from adaptertools.formats._adapterhub_places import Placed, config, placed
from adaptertools.formats._modules import Shape, cast, common_scale, modules, shape_for
from adaptertools.formats._peft_write import config_text
from adaptertools.formats._scaled import whole
from adaptertools.formats._side_by_side import Pair, parted
from adaptertools.formats._torch_save import save
from adaptertools.tensorfile import dtype_of

if TYPE_CHECKING:
    from adaptertools.update import Array

NAME = "pytorch_adapter.bin"
_Thirds = Mapping[str, "Array"]


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write config and weights; of `ask.base` the config is read.

    Raises NotFound without it, Unsupported for modules and models that AdapterHub does not adapt,
    and for (IA)³ of inputs.
    """
    if ask.base is None or not (ask.base / "config.json").is_file():
        raise NotFound(
            "AdapterHub's switches mean all layers of a model. Pass the model as --base; only its "
            "config.json is read."
        )
    base = checkpoint.read_json(ask.base / "config.json")
    there = placed(adapter, base)
    name = ask.options.get("name", "default")
    if not name.isidentifier():
        raise Unsupported(f"-o name={shown(name)}: letters, digits and _ were expected.")
    wrote = Wrote(files=[CONFIG, NAME], tensors=0, nbytes=0)
    maker = _scales if adapter.method == "IA3" else _factors
    slots, own, tensors = maker(adapter, there, ask, wrote)
    items = ((f"{there.stem}{key.replace('*', name)}", values) for key, values in tensors)
    wrote.tensors, wrote.nbytes = save(draft / NAME, items)
    wrote.folded = list(dict.fromkeys(wrote.folded))
    (draft / CONFIG).write_text(
        config_text(config(base, there, slots, adapter, name, own)), "utf-8"
    )
    return wrote


_Made = tuple[set[str], dict[str, Any], Iterator[tuple[str, "Array"]]]


def _factors(adapter: Adapter, there: Placed, ask: Ask, wrote: Wrote) -> _Made:
    """Give the slots, the config and the tensors of a LoRA."""
    trial = Wrote(files=[], tensors=0, nbytes=0)
    used = [
        (slot, len(pair[0]))
        for name, slots in there.modules()
        for (_, own), entry in there.entries.items()
        if own == name
        for slot, pair in _pairs(adapter, entry, slots, Shape(), trial).items()
    ]
    if not used:
        raise Unsupported(f"{shown(adapter.ref)} is all zeros: there is nothing to switch on.")
    rank = max([width for _, width in used] + [ask.rank or 0])
    if ask.rank and ask.rank < rank:
        raise Unsupported(
            f"--rank {ask.rank}: modules have rank {rank}, and padding cannot shrink them. "
            f"Run `adaptertools resize ADAPTER --rank {ask.rank} --out DIR` first."
        )
    scale = common_scale(adapter, rank)
    shape = replace(shape_for(adapter, ask, scale=scale), rank=None)
    on = {slot for slot, _ in used}

    def tensors() -> Iterator[tuple[str, Array]]:
        for at in sorted(there.layers):
            for name, slots in there.modules():
                like = there.of(name)
                entry = there.entries.get((at, name))
                pairs = _pairs(adapter, entry, slots, shape, wrote) if entry else {}
                if entry and any(len(down) < rank for down, _ in pairs.values()):
                    wrote.padded.append(entry.target)
                if own := [slot for slot in slots if slot in on]:
                    down, up = _whole(pairs, own, slots, like, rank, shape)
                    yield f"{at}.{name}.loras.*.lora_A", down
                    yield f"{at}.{name}.loras.*.lora_B", up

    own = {"r": rank, "alpha": whole(scale * rank), "composition_mode": "add",
           "init_weights": "lora"}  # fmt: skip
    return on, own, tensors()


def _pairs(
    adapter: Adapter, entry: Entry, slots: str, shape: Shape, wrote: Wrote
) -> dict[str, Pair]:
    """Load a module's factors, those of q, k and v in one weight apart."""
    module = next(modules(replace(adapter, entries=(entry,)), shape, wrote))
    if len(slots) == 1:
        return {slots: (module.down, module.up)}
    parts = parted(module.down, module.up, [len(module.up) // len(slots)] * len(slots))
    return {slot: pair for slot, pair in zip(slots, parts, strict=True) if pair is not None}


def _whole(
    pairs: Mapping[str, Pair], on: list[str], slots: str, like: Entry, rank: int, shape: Shape
) -> Pair:
    """Put the slots that are on below one another, padded, zeros where there is nothing."""
    import numpy as np

    below, above = like.parts["lora_A"], like.parts["lora_B"]
    kinds = [pair[0].dtype for pair in pairs.values()] or [dtype_of(shape.dtype or below.dtype)]
    rows = above.rows // len(slots)
    down = np.zeros((rank * len(on), below.columns), kinds[0])
    up = np.zeros((rows * len(on), rank), kinds[0])
    for i, slot in enumerate(on):
        if slot in pairs:
            one, two = pairs[slot]
            down[i * rank : i * rank + len(one)] = one
            up[i * rows : (i + 1) * rows, : len(one)] = two
    return down, up


def _scales(adapter: Adapter, there: Placed, ask: Ask, wrote: Wrote) -> _Made:
    """Give the slots, the config and the tensors of an (IA)³."""
    found = {place: _thirds(e, there.family.modules[place[1]], ask, wrote)
             for place, e in there.entries.items()}  # fmt: skip
    on = {
        s for parts in found.values() for s, v in parts.items() if len(parts) < 3 or (v != 1).any()
    }

    def tensors() -> Iterator[tuple[str, Array]]:
        import numpy as np

        for at in sorted(there.layers):
            for name, slots in there.modules():
                like = next(parts for (_, own), parts in found.items() if own == name)
                parts = found.get((at, name)) or {s: np.ones_like(v) for s, v in like.items()}
                if own := [parts[slot] for slot in slots if slot in on]:
                    yield f"{at}.{name}.loras.*.lora_B", np.concatenate(own)

    said = {"r": 1, "alpha": 1, "composition_mode": "scale", "init_weights": "ia3"}
    return on, said, tensors()


def _thirds(entry: Entry, slots: str, ask: Ask, wrote: Wrote) -> dict[str, Array]:
    """Read the factors of the outputs, those of q, k and v apart."""
    import numpy as np

    spec = entry.parts["ia3_l"]
    if len(spec.shape) != 2 or spec.shape[1] != 1 or spec.rows % len(slots):
        raise Unsupported(
            f"{shown(entry.target)}: its factors are {list(spec.shape)}, of inputs or of another "
            "kind of layer, and AdapterHub scales outputs. Merge it into its base instead."
        )
    values = tensorfile.read(spec)
    if ask.dtype and ask.dtype != spec.dtype:
        values, error = cast(values, ask.dtype, spec.name)
        wrote.error = max(wrote.error, error)
    return dict(zip(slots, np.split(values, len(slots)), strict=True))
