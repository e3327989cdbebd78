"""BAS: whether the modules of the adapter are in the base that was given, and of its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import first, shown
from adaptertools.facts import Base, Found, Result, Weights
from adaptertools.tensorfile import TensorSpec

Config = Mapping[str, Any]
Parts = Mapping[str, TensorSpec]
Bases = Mapping[str, list[TensorSpec]]
_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_TOWERS = {"vision": "vision_config", "visual": "vision_config", "image": "vision_config",
           "audio": "audio_config", "speech": "audio_config", "text_model": "text_config",
           "language": "text_config"}  # fmt: skip
_HEADS = ("lm_head", "embed_out", "output")
# Their Conv1D stores weights as (in, out).
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


def _depth(base: Base, module: str) -> tuple[int | None, int]:
    """Say how many layers there are where a module lies, and how many more may be stored.

    None where the config does not say.
    """
    config, part = base.config, "text_config"
    part = next((key for word, key in _TOWERS.items() if word in module), part)
    nested = config.get(part)
    if isinstance(nested, dict):
        config = nested
    elif part != "text_config":
        return None, 0
    keys: tuple[str, ...] = _DEPTHS
    if module.startswith(("decoder.", "model.decoder.")):
        keys = ("num_decoder_layers", "decoder_layers", *_DEPTHS)
    elif module.startswith(("encoder.", "model.encoder.")):
        keys = ("encoder_layers", *_DEPTHS)
    depth = next((config[key] for key in keys if type(config.get(key)) is int), None)
    more = config.get("num_nextn_predict_layers")  # heads that guess further tokens
    return depth, more if type(more) is int else 0


@check("BAS007", "every adapted module is in the base", fix="Pass the base it was trained on.")
def fits(config: Config, weights: Weights, base: Base) -> Result:
    """PEFT adapts what it finds by name: a deeper or shallower base loads without a word.

    Sizes are held against the base's headers where it has weights; layers against its config.
    """
    if config.get("peft_type") != "LORA" or config.get("layer_replication"):
        return
    modules = _names.modules(weights.tensors)
    depths = {m: _depth(base, m) for m in modules}
    numbers = {m: _names.layer(m)[0] for m in modules}
    ends = {m: (depth or 1 << 30) + more for m, (depth, more) in depths.items()}
    beyond = [m for m, n in numbers.items() if n is not None and n >= ends[m]]
    if beyond:
        yield Found(
            text=f"{len(beyond)} modules lie in layers that {shown(base.ref)} does not have "
            f"(it has {ends[beyond[0]]}): {first(beyond, 2)}.",
            file=weights.file,
        )
    elif _everywhere(config):
        yield from _shallow({m: n for m, n in numbers.items() if n is not None}, depths, weights)
    cut = config.get("target_parameters") or config.get("use_bdlora")  # of other sizes
    if base.tensors is not None and not cut:
        yield from _sizes({m: p for m, p in modules.items() if m not in beyond}, base, weights.file)


def _everywhere(config: Config) -> bool:
    """Tell whether the config means these modules in every layer that has them."""
    names = _names.names(config.get("target_modules"))
    plain = not any(part.isdigit() for name in names for part in name.split("."))
    listed = isinstance(config.get("target_modules"), list)
    return listed and plain and config.get("layers_to_transform") is None


def _shallow(
    numbers: Mapping[str, int], depths: Mapping[str, tuple[int | None, int]], weights: Weights
) -> Result:
    ends: dict[str, tuple[int, str]] = {}
    for module, number in numbers.items():
        tower = _names.layer(module)[1].partition(".N.")[0]
        ends[tower] = max(ends.get(tower, (-1, "")), (number, module))
    for tower, (top, module) in ends.items():
        depth, _ = depths[module]
        if depth is not None and top < depth - 1:
            yield Found(
                text=f"The last adapted layer of {shown(tower)} is {top}, and the base has {depth} "
                "layers: those above stay as they are.",
                level="warning", file=weights.file,
            )  # fmt: skip


def _sizes(modules: Mapping[str, Parts], base: Base, file: str) -> Result:
    ends = _by_end(base.tensors) if base.tensors else {}
    swapped = base.config.get("model_type") in _TRANSPOSED
    packed = isinstance(base.config.get("quantization_config"), dict)
    lost = []
    for module, parts in modules.items():
        held = ends.get(_end(module), [])
        head = module.rpartition(".")[2] in _HEADS  # BAS008 counts its rows
        faults = [] if packed or head else [_fault(parts, spec, swapped) for spec in held]
        if not held and not _elsewhere(module):
            lost.append(module)
        elif faults and all(faults):
            yield Found(text=f"{shown(module)}: {faults[0]}", file=file)
    if lost:
        yield Found(
            text=f"{len(lost)} adapted modules are not in the base: {first(lost, 3)}.", file=file
        )


def _elsewhere(module: str) -> bool:
    """Tell whether a base may hold it under another name: tied, or many experts in one tensor."""
    return "expert" in module or module.rpartition(".")[2] in _HEADS


@_names.once  # a base is the same for many adapters
def _by_end(tensors: Parts) -> Bases:
    """Give the base's weights by the end of their names: what stands before differs by version."""
    found: dict[str, list[TensorSpec]] = {}
    for name, spec in tensors.items():
        module, _, last = name.rpartition(".")
        if last.endswith(("weight", "weight_packed")):
            found.setdefault(_end(module), []).append(spec)
    return found


def _end(module: str) -> str:
    number, kind = _names.layer(module)
    if number is None:
        return module.rpartition(".")[2]
    return f"{number}." + kind.partition("N.")[2]


def _fault(parts: Parts, weight: TensorSpec, swapped: bool) -> str:
    """Say how a pair does not fit a weight; empty where it does, or where that cannot be told."""
    a, b = parts.get("lora_A"), parts.get("lora_B")
    if not (a and b and len(a.shape) == len(b.shape) == len(weight.shape) == 2):
        return ""
    wide = (b.shape[0], a.shape[1])
    fits = weight.shape == wide or (swapped and weight.shape == wide[::-1])
    if fits or weight.dtype in ("U8", "I8", "I32"):
        return ""
    return f"the update is {list(wide)}, the base's weight {list(weight.shape)}."
