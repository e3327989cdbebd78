"""SRV: what a serving target would refuse, or compute wrongly. The facts are in serving.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import first, shown
from adaptertools.facts import Facts, Found, Profile, Result, Weights

Config = Mapping[str, Any]
_PREFIX = "base_model.model."
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte")


def _said(target: Profile, rule: str) -> str:
    """Give a level where the target minds, empty where it does not."""
    return str(target.rules.get(rule) or "")


def _told(target: Profile) -> str:
    return f"{target.name} {target.version}: "


def _found(target: Profile, rule: str, text: str, pointer: str) -> Result:
    if level := _said(target, rule):
        yield Found(text=_told(target) + text, pointer=pointer, level=level)


@check(
    "SRV001", "the target loads saved modules", fix="Merge it, or train without modules_to_save."
)
def saved_modules(config: Config, target: Profile) -> Result:
    """Servers swap low-rank factors; whole modules are refused or left out."""
    names = _names.names(config.get("modules_to_save"))
    allowed = target.rules.get("modules_allowed") or []
    if odd := list(dict.fromkeys(name for name in names if name not in allowed)):
        text = f"modules_to_save is not served: {first(odd, 3)}."
        yield from _found(target, "modules_to_save", text, "/modules_to_save")


@check("SRV002", "the target computes DoRA", fix="Merge it: a merged DoRA is an ordinary model.")
def dora(config: Config, target: Profile) -> Result:
    """DoRA needs the base's norms at run time, which servers do not keep."""
    if config.get("use_dora"):
        yield from _found(target, "dora", "DoRA is not served.", "/use_dora")


@check("SRV003", "the target adds biases", fix="Merge it, or train with bias none.")
def bias(config: Config, target: Profile) -> Result:
    """Biases that were trained along are refused, or dropped without a word."""
    if config.get("bias") not in (None, "none") or config.get("lora_bias"):
        yield from _found(target, "bias", "trained biases are not served.", "/bias")


@check("SRV004", "the rank is one that the target takes", fix="Raise its limit, or resize.")
def rank(config: Config, target: Profile) -> Result:
    """Servers reserve memory for a largest rank; a larger one is refused when it is loaded."""
    patterns = config.get("rank_pattern")
    values = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else [])]
    largest = max((r for r in values if type(r) is int), default=0)
    limit, usual = target.rules.get("largest_rank"), target.rules.get("usual_rank")
    if type(limit) is int and largest > limit:
        text = f"rank {largest} is above the largest that it takes, {limit}."
        yield from _found(target, "rank", text, "/r")
    elif type(usual) is int and largest > usual:
        yield Found(
            text=f"{_told(target)}rank {largest} is above its default limit, {usual}.",
            pointer="/r", level="warning",
        )  # fmt: skip


@check("SRV005", "the target scales every module right",
       fix="Fold the scales into the weights: adaptertools convert --target.")  # fmt: skip
def scales(config: Config, target: Profile) -> Result:
    """Patterns and rsLoRA change the scale; who ignores them computes something else, silently."""
    for key in ("rank_pattern", "alpha_pattern", "use_rslora"):
        if config.get(key):
            yield from _found(target, key, f"{key} is not honoured.", f"/{key}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if rank != alpha:
        text = f"lora_alpha {shown(alpha)} is not read, nor is r {shown(rank)}: the scale is 1."
        yield from _found(target, "scale", text, "/lora_alpha")
    if isinstance(alpha, float) and not alpha.is_integer():
        text = f"lora_alpha {shown(alpha)} is read as a whole number."
        yield from _found(target, "fractional_alpha", text, "/lora_alpha")


@check("SRV006", "what the target reads is named", fix="List the modules in target_modules.")
def listed(config: Config, target: Profile) -> Result:
    """Servers stop at a config without rank, alpha or targets; some know no patterns of targets."""
    lora = config.get("peft_type") == "LORA"
    for key in (target.rules.get("required") or ()) if lora else ():
        if config.get(key) is None:
            yield Found(
                text=f"{_told(target)}{key} is missing, and has no default there.",
                pointer=f"/{key}", level="error", hint=f"Write {key}.",
            )  # fmt: skip
    targets = config.get("target_modules")
    if targets is not None and not isinstance(targets, list):
        text = f"target_modules is {shown(targets)!r}, a list of names is wanted."
        yield from _found(target, "targets_list", text, "/target_modules")


@check("SRV007", "targets can be adapted there", fix="Merge it, or leave these modules out.")
def adaptable(config: Config, weights: Weights, target: Profile) -> Result:
    """Embeddings, heads and convolutions are beyond what most servers adapt."""
    if config.get("peft_type") != "LORA":
        return
    modules = _names.modules(weights.tensors)
    odd = [
        module
        for module, parts in modules.items()
        if module.rpartition(".")[2] in _EMBEDDINGS or any(len(s.shape) > 2 for s in parts.values())
    ]
    if odd:
        text = f"embeddings or convolutions are not adapted: {first(odd, 3)}."
        yield from _found(target, "embeddings", text, "/target_modules")


@check("SRV008", "the target knows the method", fix="Merge it, or convert it to LoRA.")
def method(config: Config, target: Profile) -> Result:
    """Servers take LoRA; other methods must be merged first."""
    kind = config.get("peft_type")
    if kind != "LORA":
        yield from _found(target, "other_methods", f"{shown(kind)} is not served.", "/peft_type")


@check("SRV009", "the target reads the file",
       fix="Write it as safetensors: adaptertools convert.")  # fmt: skip
def container(weights: Weights, target: Profile) -> Result:
    """Pickles can run code; servers that load only safetensors do not find them."""
    if weights.pickled and (level := _said(target, "pickles")):
        text = f"{_told(target)}{weights.file} is not read."
        yield Found(text=text, file=weights.file, level=level)


@check("SRV010", "the target takes added tokens", fix="Merge it, and serve its own tokenizer.")
def tokens(tokenizer: Mapping[str, Any], target: Profile) -> Result:
    """Tokens beyond the base's vocabulary have no rows in the base that is being served."""
    added = tokenizer.get("added_tokens.json")
    if isinstance(added, dict) and added and (level := _said(target, "added_tokens")):
        yield Found(
            text=f"{_told(target)}{len(added)} added tokens are not served.",
            file="added_tokens.json", level=level,
        )  # fmt: skip


@check("SRV011", "the target finds the tensors", fix="Save the adapter with PEFT.")
def names(config: Config, weights: Weights, target: Profile) -> Result:
    """Names are looked up exactly: one prefix, lora_A.weight and lora_B.weight, nothing else."""
    if config.get("peft_type") != "LORA":
        return
    if own := target.rules.get("own_format"):
        text = f"{_told(target)}it reads {own}, not PEFT's files."
        yield Found(
            text=text, file=weights.file, level="error", hint="Run adaptertools convert --target."
        )
        return
    ends = tuple(target.rules.get("suffixes") or ())
    plain = [n for n in weights.tensors if n.startswith(_PREFIX)]
    faults = {
        "exact_names": ("do not begin with base_model.model.", set(weights.tensors) - set(plain)),
        "other_tensors": ("are no lora_A.weight or lora_B.weight",
                          {n for n in plain if ends and not n.endswith(ends)}),
    }  # fmt: skip
    for rule, (words, odd) in faults.items():
        level = _said(target, rule)
        if level and odd:
            text = f"{_told(target)}{len(odd)} names {words}, such as {shown(min(odd))}."
            yield Found(text=text, file=weights.file, tensor=min(odd), level=level)


@check("SRV012", "the target refuses nothing else of it",
       fix="Merge it, or run adaptertools convert --target.")  # fmt: skip
def refused(config: Config, weights: Weights, target: Profile, facts: Facts) -> Result:
    """Variants of LoRA, dtypes and architectures that a target names and does not take."""
    for key, values in (target.rules.get("refused") or {}).items():
        said = config.get(key)
        if said and (values is True or str(said).lower().startswith(tuple(values))):
            text = f"{_told(target)}{key} {shown(said, 40)} is not served."
            yield Found(text=text, pointer=f"/{key}", level="error")
    dtypes = target.rules.get("dtypes") or []
    odd = [name for name, spec in weights.tensors.items() if dtypes and spec.dtype not in dtypes]
    if odd:
        dtype = weights.tensors[odd[0]].dtype
        text = f"{_told(target)}{len(odd)} tensors are {dtype}; it reads {first(dtypes)}."
        yield Found(text=text, file=weights.file, tensor=odd[0], level="error")
    bases = target.rules.get("bases")
    kind = facts.base.config.get("model_type") if facts.base else None
    if bases and kind and kind not in bases:
        text = f"{_told(target)}the base is {shown(kind)}; it takes adapters of {first(bases)}."
        yield Found(text=text, level="error")
