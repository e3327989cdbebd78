"""SRV: what a serving target would refuse, or compute wrongly. The facts are in serving.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import first, shown
from adaptertools.facts import Found, Profile, Result, Weights

Config = Mapping[str, Any]
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte")


def _said(target: Profile, rule: str) -> str:
    """Give a level where the target minds, empty where it does not."""
    return str(target.rules.get(rule) or "")


def _found(target: Profile, rule: str, text: str, pointer: str) -> Result:
    if level := _said(target, rule):
        told = f"{target.name} {target.version}: {text}"
        yield Found(text=told, pointer=pointer, level=level)


@check(
    "SRV001", "the target loads saved modules", fix="Merge it, or train without modules_to_save."
)
def saved_modules(config: Config, target: Profile) -> Result:
    """Servers swap low-rank factors; whole modules are refused or left out."""
    names = _names.names(config.get("modules_to_save"))
    allowed = target.rules.get("modules_allowed") or []
    if odd := [name for name in names if name not in allowed]:
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
            text=f"{target.name} {target.version}: rank {largest} is above its default limit, "
            f"{usual}.",
            pointer="/r", level="warning",
        )  # fmt: skip


@check("SRV005", "the target scales every module right",
       fix="Fold the scales: adaptertools convert --to plain.")  # fmt: skip
def scales(config: Config, target: Profile) -> Result:
    """Patterns and rsLoRA change the scale; who ignores them computes something else, silently."""
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            yield from _found(target, key, f"{key} is not honoured.", f"/{key}")
    if config.get("use_rslora"):
        yield from _found(target, "rslora", "use_rslora is not honoured.", "/use_rslora")


@check("SRV006", "targets are named", fix="List the modules by their names in target_modules.")
def listed(config: Config, target: Profile) -> Result:
    """Some servers read target_modules as a list and know no patterns."""
    if not isinstance(config.get("target_modules"), list):
        said = shown(config.get("target_modules"))
        text = f"target_modules is {said}, a list of names is wanted."
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
       fix="Write safetensors: adaptertools convert --to peft.")  # fmt: skip
def container(weights: Weights, target: Profile) -> Result:
    """Pickles can run code; servers that load only safetensors do not find them."""
    if weights.pickled and (level := _said(target, "pickles")):
        text = f"{target.name} {target.version}: {weights.file} is not read."
        yield Found(text=text, file=weights.file, level=level)


@check("SRV010", "the target takes added tokens", fix="Merge it, and serve its own tokenizer.")
def tokens(tokenizer: Mapping[str, Any], target: Profile) -> Result:
    """Tokens beyond the base's vocabulary have no rows in the base that is being served."""
    added = tokenizer.get("added_tokens.json")
    if isinstance(added, dict) and added and (level := _said(target, "added_tokens")):
        yield Found(
            text=f"{target.name} {target.version}: {len(added)} added tokens are not served.",
            file="added_tokens.json", level=level,
        )  # fmt: skip


@check("SRV011", "the target finds the tensors", fix="Save the adapter with PEFT.")
def names(config: Config, weights: Weights, target: Profile) -> Result:
    """Names are looked up exactly: one prefix, lora_A.weight and lora_B.weight, nothing else."""
    level = _said(target, "exact_names")
    odd = [n for n in weights.tensors if not n.startswith("base_model.model.")]
    if level and config.get("peft_type") == "LORA" and odd:
        yield Found(
            text=f"{target.name} {target.version}: {len(odd)} names do not begin with "
            f"base_model.model., such as {shown(odd[0])}.",
            file=weights.file, tensor=odd[0], level=level,
        )  # fmt: skip
