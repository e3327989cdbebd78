"""kohya's single file, as sd-scripts, ComfyUI and LyCORIS have it: flat names, and an alpha each.

`lora_down` (r, in, *k), `lora_up` (out, r, 1…), `alpha` without axes; the scale is alpha / r, 1
where alpha is missing, and so where it is 0. `dora_scale` (out, 1…) is PEFT's magnitude.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Unreadable, Unsupported, first, shown
from adaptertools.formats import Ask, Wrote, _kohya_base, diffusers
from adaptertools.formats._components import COMPONENTS, parted
from adaptertools.formats._kohya_names import flattened, unflattened
from adaptertools.formats._modules import common_scale, modules, shape_for
from adaptertools.formats._normal import PT, save, spooled
from adaptertools.formats._peft_write import key
from adaptertools.formats._scaled import scaled_config
from adaptertools.report import Finding
from adaptertools.tensorfile import TensorSpec, read_header

if TYPE_CHECKING:
    from adaptertools.update import Array

HOLDS = frozenset({"dora", "conv"})
SUFFIX = ".safetensors"
LACKS = "biases of lora_B, embeddings, saved modules, token rows"
PROVED = "diffusers 0.42.1 (its own names of modules; DoRA with lycoris-lora 4.1.3)"
OPTIONS = {
    "component": "the part of the pipeline, where names do not tell it",
    "alpha": "`one` gives all modules one rank and alpha, which diffusers needs",
}
NAME = "lora.safetensors"

_KNOWN = ("adapter_model.safetensors", "adapters.safetensors", "model.safetensors", diffusers.NAME)
_NEEDED = {"lora_down.weight", "lora_up.weight"}
_ROLES = _NEEDED | {"alpha", "dora_scale"}
_Parts = dict[str, TensorSpec]


def matches(files: Collection[str]) -> bool:
    """Tell whether there is one file of tensors, of no name that another library gives."""
    found = [name for name in files if name.endswith(SUFFIX)]
    return len(found) == 1 and found[0] not in _KNOWN and "adapter_config.json" not in files


def read(path: Path, ref: str, base: Path | None = None) -> Adapter:
    """Read a file; one of diffusers under another name is read as that.

    `base` is the folder of a pipeline or of one model, by whose modules names are told that can be
    read in several ways. Raises Unsupported for other kinds of tensors, for names of other module
    trees, and for a DoRA that scales inputs; Unreadable for half pairs; Mismatch for another base.
    """
    file = next(iter(sorted(path.glob(f"*{SUFFIX}")))) if path.is_dir() else path
    header = read_header(file)
    if all(name.partition(".")[0] in COMPONENTS for name in header.tensors):
        return diffusers.read(file, ref)
    found = _modules(header.tensors, file)
    names = _kohya_base.unflattened(found, base) if base else unflattened(found)
    if len({name.partition(".")[0] for name in names.values()}) == 1:
        names = {flat: name.partition(".")[2] for flat, name in names.items()}
    ranks = {names[flat]: _rank_and_alpha(parts) for flat, parts in found.items()}
    dora = any("dora_scale" in parts for parts in found.values())
    config = scaled_config(ranks, use_dora=dora, task_type=None)
    return spooled(config, _tensors(found, names), path, ref, "kohya")


def _modules(tensors: Mapping[str, TensorSpec], file: Path) -> dict[str, _Parts]:
    found: dict[str, _Parts] = {}
    odd = []
    for name, spec in tensors.items():
        flat, _, role = name.partition(".")
        if role not in _ROLES:
            odd.append(name)
        found.setdefault(flat, {})[role] = spec
    if odd:
        raise Unsupported(
            f"{shown(file)}: {first(odd, 3)} are no factors of a LoRA in kohya's names, and "
            "leaving them out could change the result."
        )
    if half := [flat for flat, parts in found.items() if not parts.keys() >= _NEEDED]:
        raise Unreadable(f"{shown(file)}: {first(half)} has not both factors. Fetch it again.")
    for flat, parts in found.items():
        _check_dora(flat, parts)
    return found


def _check_dora(flat: str, parts: _Parts) -> None:
    """Refuse magnitudes of inputs; which they are is said by the axis, never by the size."""
    scale = parts.get("dora_scale")
    if scale and (
        set(scale.shape[1:]) > {1} or scale.shape[:1] != parts["lora_up.weight"].shape[:1]
    ):
        raise Unsupported(
            f"{shown(flat)}: its dora_scale is {list(scale.shape)}, of inputs, and PEFT's DoRA "
            "scales outputs. Merge it with the tool that trained it."
        )


def _rank_and_alpha(parts: _Parts) -> tuple[int, float]:
    rank = parts["lora_down.weight"].shape[0]
    spec = parts.get("alpha")
    alpha = float(tensorfile.read(spec).astype("float64").reshape(-1)[0]) if spec else float(rank)
    return rank, alpha or float(rank)


def _tensors(
    found: Mapping[str, _Parts], names: Mapping[str, str]
) -> Iterator[tuple[str, Array]]:  # fmt: skip
    for flat, parts in found.items():
        yield key(names[flat], "lora_A"), tensorfile.read(parts["lora_down.weight"])
        yield key(names[flat], "lora_B"), tensorfile.read(parts["lora_up.weight"])
        if "dora_scale" in parts:
            magnitude = tensorfile.read(parts["dora_scale"])
            if magnitude.ndim == 2:
                magnitude = magnitude.reshape(-1)
            else:  # PEFT's of a convolution is (1, out, 1, 1)
                magnitude = magnitude.swapaxes(0, 1)
            yield key(names[flat], "lora_magnitude_vector").removesuffix(".weight"), magnitude


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write one file with an alpha for each module; factors stay as they are.

    Raises Unsupported where a module's component is not known, Mismatch for names that clash.
    """
    import numpy as np

    names = flattened(parted((e.target for e in adapter.entries), ask.options.get("component", "")))
    one = common_scale(adapter) if ask.options.get("alpha") == "one" else None
    scales = {entry.target: one or entry.scale for entry in adapter.entries}
    shape = shape_for(adapter, ask, scale=one, uniform=one is not None)
    wrote = Wrote(files=[NAME], tensors=0, nbytes=0)

    def tensors() -> Iterator[tuple[str, Array]]:
        for module in modules(adapter, shape, wrote):
            flat = names[module.target]
            yield f"{flat}.lora_down.weight", module.down
            yield f"{flat}.lora_up.weight", module.up
            yield f"{flat}.alpha", np.array(scales[module.target] * module.rank, "float32")
            if module.magnitude is not None:
                out, *ones = module.up.shape[:1] + (1,) * (module.up.ndim - 1)
                yield f"{flat}.dora_scale", module.magnitude.reshape(out, *ones)

    metadata = {**PT, "ss_network_module": "networks.lora", "ss_network_dim": str(adapter.rank)}
    wrote.tensors, wrote.nbytes = save(draft / NAME, tensors(), metadata)
    alphas = {entry.scale * (shape.rank or entry.rank) for entry in adapter.entries}
    if one is None and len(alphas) > 1:
        wrote.findings.append(Finding(
            code="CNV031", level="warning", place=adapter.ref,
            text="Modules have different alphas, and diffusers (0.42) takes those of attention for "
            "the usual one. ComfyUI, sd-scripts and LyCORIS take each.",
            hint="For diffusers, use --to diffusers, or -o alpha=one.",
        ))  # fmt: skip
    return wrote
