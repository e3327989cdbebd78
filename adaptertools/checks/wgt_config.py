"""WGT: the weights against the config. Only LoRA's names are known that well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import AdapterToolsError, first, shown
from adaptertools.facts import Found, Result, Weights
from adaptertools.patterns import pattern_value
from adaptertools.tensorfile import TensorSpec

Config = Mapping[str, Any]
Parts = Mapping[str, TensorSpec]


def _lora(config: Config, weights: Weights) -> dict[str, dict[str, TensorSpec]]:
    """Give a LoRA's modules; nothing for other methods, and nothing of fused experts."""
    if config.get("peft_type") != "LORA" or config.get("target_parameters"):
        return {}
    return _names.modules(weights.tensors)


@check("WGT005", "shapes have the rank that the config says", fix="Correct r or rank_pattern.")
def ranks(config: Config, weights: Weights) -> Result:
    """PEFT makes factors of rank r (or rank_pattern's) and stops where the file's differ.

    vLLM and others take the rank from the file and the scale from the config, and are wrong
    without a word. A rank_pattern key matches the end of a module's name, the first one wins.
    """
    for module, parts in _lora(config, weights).items():
        try:
            rank = pattern_value(config, "rank_pattern", module, config.get("r"))
        except AdapterToolsError as error:
            yield Found(text=str(error), pointer="/rank_pattern")
            return
        for role, spec, axis in _factors(parts):
            if len(spec.shape) > axis and spec.shape[axis] != rank:
                yield Found(
                    text=f"{shown(module)}: {role} is {list(spec.shape)}, rank {shown(rank)} was "
                    "expected.",
                    file=weights.file, tensor=spec.name,
                )  # fmt: skip
                break


def _factors(parts: Parts) -> Iterator[tuple[str, TensorSpec, int]]:
    for role, axis in (("lora_A", 0), ("lora_B", 1), ("lora_embedding_A", 0),
                       ("lora_embedding_B", 1)):  # fmt: skip
        if role in parts:
            yield role, parts[role], axis


@check("WGT006", "the config targets what the file holds", fix="Add them to target_modules.")
def targeted(config: Config, weights: Weights) -> Result:
    """Tensors of modules that the config does not target are dropped without a word."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or targets == ["all-linear"]:
        return
    names, without = _names.names(targets), _names.names(config.get("exclude_modules"))
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    wanted: dict[str, list[str]] = {"": [], "out": [], "layer": []}
    for module in _lora(config, weights):
        number = _names.layer(module)
        if not any(_names.ends_with(module, name) for name in names):
            wanted[""].append(module)
        elif any(_names.ends_with(module, name) for name in without):
            wanted["out"].append(module)
        elif isinstance(layers, list) and number is not None and number not in layers:
            wanted["layer"].append(module)
    said = {"": "are not among target_modules", "out": "are excluded by exclude_modules",
            "layer": "lie outside layers_to_transform"}  # fmt: skip
    pointers = {"": "/target_modules", "out": "/exclude_modules", "layer": "/layers_to_transform"}
    for why, modules in wanted.items():
        if modules:
            yield Found(
                text=f"{len(modules)} adapted modules {said[why]}: {first(modules, 3)}.",
                pointer=pointers[why],
            )


@check("WGT007", "every target has tensors", level="warning", fix="Take it out of the config.")
def ghosts(config: Config, weights: Weights) -> Result:
    """A name in target_modules that no tensor has is ignored by PEFT and vLLM, not by SGLang."""
    modules = _lora(config, weights)
    for i, name in enumerate(_names.names(config.get("target_modules"))):
        hit = any(_names.ends_with(module, name) for module in modules)
        if modules and name != "all-linear" and not hit:
            yield Found(
                text=f"{shown(name)} is targeted, and no tensor belongs to it.",
                pointer=f"/target_modules/{i}",
            )


@check("WGT008", "every layer has the same modules", level="warning",
       fix="Fetch the file again, or check the run that saved it.")  # fmt: skip
def even(config: Config, weights: Weights) -> Result:
    """A module that most layers have and some lack is the sign of a lost shard."""
    layers: dict[str, set[int]] = {}
    for module in _lora(config, weights):
        number = _names.layer(module)
        if number is not None:
            layers.setdefault(module.replace(f".{number}.", ".N.", 1), set()).add(number)
    if config.get("layers_to_transform") is not None or not layers:
        return
    every = set().union(*layers.values())
    for kind, have in sorted(layers.items()):
        lack = sorted(every - have)
        if lack and len(have) > len(every) / 2:
            yield Found(
                text=f"{shown(kind)} is adapted in {len(have)} of {len(every)} layers, and not in "
                f"{first(lack)}.",
                file=weights.file,
            )
    holes = sorted(set(range(min(every), max(every) + 1)) - every) if max(every) < 10_000 else []
    if holes:
        yield Found(text=f"No tensor of layers {first(holes)}.", file=weights.file)


@check("WGT009", "DoRA, biases and their tensors agree", fix="Correct the config, or save again.")
def variants(config: Config, weights: Weights) -> Result:
    """use_dora without magnitudes, or magnitudes without use_dora, computes something else."""
    modules = _lora(config, weights)
    pairs = [m for m, parts in modules.items() if parts.keys() & {"lora_A", "lora_embedding_A"}]
    for key, role in (("use_dora", "lora_magnitude_vector"), ("lora_bias", "lora_B.bias")):
        have = [m for m in pairs if role in modules[m]]
        on = bool(config.get(key))
        if on and len(have) < len(pairs):
            lack = [m for m in pairs if m not in have]
            yield Found(
                text=f"{key} is set, and {len(lack)} of {len(pairs)} modules have no {role}: "
                f"{first(lack, 3)}.",
                pointer=f"/{key}",
            )
        if have and not on:
            yield Found(
                text=f"{len(have)} modules have {role}, and {key} is not set.", pointer=f"/{key}"
            )
    biased = config.get("bias") in ("all", "lora_only")
    held = any(name.endswith(".bias") for name in _names.saved(weights.tensors))
    if pairs and biased and not held:
        yield Found(
            text=f"bias is {config['bias']!r}, and the file holds no bias.", pointer="/bias",
            level="warning",
        )  # fmt: skip


@check("WGT010", "saved modules are in the file", fix="Save the adapter again with the module.")
def saved(config: Config, weights: Weights) -> Result:
    """PEFT stops with a bare KeyError where a module of modules_to_save has no tensors."""
    whole = Counter(name.rpartition(".")[0] for name in _names.saved(weights.tensors).values())
    listed = _names.names(config.get("modules_to_save"))
    held = [n for n in listed if any(_names.ends_with(m, n) or f".{n}." in f".{m}." for m in whole)]
    # SEQ_CLS and TOKEN_CLS list names of which a model has one.
    if listed and not held and config.get("peft_type") == "LORA":
        yield Found(
            text=f"modules_to_save lists {first(dict.fromkeys(listed), 3)}, and the file holds "
            "none of them.",
            pointer="/modules_to_save",
        )
    heads = [m for m in whole if m.rpartition(".")[2] in ("classifier", "score", "pre_classifier")]
    extra = [m for m in heads if not any(_names.ends_with(m, n) for n in listed)]
    if extra and config.get("peft_type") == "LORA":
        yield Found(
            text=f"{first(extra, 3)} is saved whole, and modules_to_save does not list it.",
            pointer="/modules_to_save", level="warning",
            hint="Newer PEFT does not load it as a trained copy; list it.",
        )  # fmt: skip
