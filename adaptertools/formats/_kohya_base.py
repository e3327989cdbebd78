"""kohya's flat names taken apart by a base's own modules, where words alone cannot do it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from adaptertools.errors import Mismatch, NotFound, Unsupported, first, shown
from adaptertools.formats._components import COMPONENTS
from adaptertools.tensorfile import read_header

# Prefix -> the parts of a pipeline whose modules have it (sd-scripts' networks, LyCORIS).
_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "lora_unet": ("unet", "transformer"), "lora_te": ("text_encoder",),
    "lora_te1": ("text_encoder",), "lora_te2": ("text_encoder_2",),
    "lora_te3": ("text_encoder_3",), "lycoris": COMPONENTS,
}  # fmt: skip


def unflattened(names: Iterable[str], base: Path) -> dict[str, str]:
    """Give component and module of each flat name, as `component.module`.

    `base` is a pipeline's folder, or that of one model, whose headers are read. Raises NotFound
    where it has no safetensors, Mismatch for names that it has no module for, Unsupported where it
    has two.
    """
    known = _flat(base)
    made, lost = {}, []
    for name in names:
        found = known.get(name, [])
        if len(found) > 1:
            raise Unsupported(
                f"{shown(name)} may be {first(sorted(found))}, and both are in the base."
            )
        if found:
            made[name] = found[0]
        else:
            lost.append(name)
    if lost:
        raise Mismatch(
            f"{first(lost, 3)}: {shown(base)} has no module of that name, its dots written as "
            "underscores. Give the base that it was trained on, as diffusers stores it."
        )
    return made


def _flat(base: Path) -> Mapping[str, list[str]]:
    known: defaultdict[str, list[str]] = defaultdict(list)
    for component, module in _modules(base):
        flat = module.replace(".", "_")
        for prefix, components in _PREFIXES.items():
            for each in components if not component else {component} & set(components):
                known[f"{prefix}_{flat}"].append(f"{each}.{module}")
                if not component:
                    break  # a single model is called by the first part that has the prefix
    return known


def _modules(base: Path) -> Iterator[tuple[str, str]]:
    """Give component and name of every module with a weight; no component for a single model."""
    parts = {part: base / part for part in COMPONENTS if (base / part).is_dir()} or {"": base}
    files = {part: sorted(folder.glob("*.safetensors")) for part, folder in parts.items()}
    if not any(files.values()):
        raise NotFound(
            f"{shown(base)} holds no safetensors, in itself or in {first(COMPONENTS, 3)}. Give the "
            "base's folder as diffusers stores it."
        )
    for part, found in files.items():
        names = {name for file in found for name in read_header(file).tensors}
        for name in sorted(names):
            if name.endswith(".weight"):
                yield part, name.removesuffix(".weight")
