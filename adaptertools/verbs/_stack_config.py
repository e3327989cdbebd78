"""adapter_config.json of a stack: a plain LoRA that loads every tensor and no other module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.formats._peft_write import exact_targets, plain_config
from adaptertools.report import Finding
from adaptertools.verbs import _config, _stack_experts
from adaptertools.verbs._stack_match import Named, embeds
from adaptertools.verbs._stack_modules import EXACT, Recipe

# Keys that decide which modules a list of names stands for.
_NARROWED = ("exclude_modules", "layers_pattern", "layers_to_transform")


def check_configs(recipe: Recipe) -> None:
    """Refuse what one plain LoRA cannot say of all adapters, before any data is read.

    Raises Mismatch where they need different models, Unsupported where PEFT has no such adapter.
    """
    named, targets = recipe.named, recipe.targets()
    depths = {str(each.adapter.config.get("layer_replication") or None) for each in named}
    if len(depths) > 1:
        raise Mismatch(
            "The adapters disagree on layer_replication, so their layers are not the same layers. "
            "Stack adapters of one depth."
        )
    _check_tying(recipe)
    _stack_experts.check_experts(recipe)
    biased = [n for n in named if _lora_bias(n)]
    if biased and recipe.options.how not in EXACT:
        raise Unsupported(
            f"{shown(biased[0].ref)} has lora_bias, and --how {recipe.options.how} is not defined "
            "for biases. Pass --how sum."
        )
    embeds = [t for t in targets if embedding(recipe, t)]
    if biased and embeds:
        raise Unsupported(
            f"{shown(biased[0].ref)} has lora_bias and {first(embeds)} is an embedding, which PEFT "
            "cannot have in one adapter. Use `adaptertools merge`."
        )


def _check_tying(recipe: Recipe) -> None:
    """Refuse one update for both embeddings (ensure_weight_tying) beside one for either.

    Where all adapters have both or neither, their sums are equal bit for bit, as PEFT needs them.
    """
    found = {}
    for each in recipe.named:
        touched = {t: recipe.weight(each, t) for t in each.source.entries if _config.embedding(t)}
        if touched:
            found[each.ref] = _ties(each), frozenset(touched), len(set(touched.values())) == 1
    tied = [ref for ref, (ties, _, _) in found.items() if ties]
    if tied and (len(set(found.values())) > 1 or not found[tied[0]][2]):
        raise Unsupported(
            f"{first(tied)} has one update for both embeddings (ensure_weight_tying), and these "
            "adapters and weights do not change both alike. Use `adaptertools merge`."
        )


def _ties(each: Named) -> bool:
    return bool(each.adapter.config.get("ensure_weight_tying"))


def _lora_bias(each: Named) -> bool:
    return any("lora_B.bias" in entry.parts for entry in each.source.entries.values())


def biased(recipe: Recipe) -> bool:
    """Tell whether the stack has biases on lora_B; then every module has one."""
    return any(_lora_bias(each) for each in recipe.named)


def embedding(recipe: Recipe, target: str) -> bool:
    """Tell whether a module is an embedding."""
    return embeds(recipe.holders(target)[0], target)


def nested(recipe: Recipe, target: str) -> bool:
    """Tell whether a module is stored under the base_layer of the attention that it is part of."""
    return recipe.holders(target)[0].source.entries[target].nested


def config_of(
    recipe: Recipe, ranks: Mapping[str, int], base: str | None, rows: Any
) -> dict[str, Any]:
    """Give the config of these ranks (all above 0)."""
    named = recipe.named
    # PEFT takes rank and alpha of a MultiheadAttention's out_proj from the attention.
    names, experts = _stack_experts.parameters(recipe, ranks), recipe.experts()
    own = {t.rpartition(".")[0] if nested(recipe, t) else t: r
           for t, r in ranks.items() if t not in experts}  # fmt: skip
    every = {
        e.target.rpartition(".")[0] if e.nested else e.target
        for each in named for t, e in each.source.entries.items() if t not in experts
    }  # fmt: skip
    listed = [None if _narrowed(each) else each.adapter.config.get("target_modules")
              for each in named if each.source.entries.keys() - experts.keys()]  # fmt: skip
    made = plain_config(own | names, exact_targets(own, listed, every) if own else [])
    modes = [str(each.adapter.config.get("bias") or "none") for each in named]
    saved = [m for each in named for m in each.adapter.config.get("modules_to_save") or ()]
    return (
        made
        | {
            "base_model_name_or_path": base,
            "revision": _first(named, "revision"),
            "task_type": _first(named, "task_type"),
            "auto_mapping": _first(named, "auto_mapping"),
            "bias": next((mode for mode in ("all", "lora_only") if mode in modes), "none"),
            "lora_bias": biased(recipe),
            "fan_in_fan_out": any(each.adapter.config.get("fan_in_fan_out") for each in named),
            "modules_to_save": list(dict.fromkeys(saved)) or None,
            "trainable_token_indices": rows,
            "ensure_weight_tying": any(map(_ties, named)),
            "layer_replication": _first(named, "layer_replication"),
        }
        | _stack_experts.config(recipe, names, _first(named, "auto_mapping"))
    )


def _narrowed(each: Named) -> bool:
    return any(each.adapter.config.get(key) for key in _NARROWED)


def _first(named: Sequence[Named], key: str) -> Any:
    return next((v for each in named if (v := each.adapter.config.get(key))), None)


def flat(named: Sequence[Named]) -> list[Finding]:
    """Say where an adapter's tensors would be the same for a convolution and a linear layer."""
    text = "Its tensors are the same for a convolution: without --base all are taken for linear."
    return [
        Finding(code="STK007", level="note", place=each.ref, text=text)
        for each in named
        if each.adapter.method in ("LOHA", "LOKR")
        and any(len(axes) == 2 for axes in each.source.wholes.values())
    ]


def disagreements(named: Sequence[Named]) -> list[Finding]:
    """Say what is left out, and where configs differ in what a stack has only once."""
    said = []
    for each in named:
        for why in sorted(set(each.adapter.ignored.values())):
            names = [n for n, w in each.adapter.ignored.items() if w == why]
            text = f"{len(names)} tensors not needed: {why}."
            said.append(Finding(code="STK006", level="note", place=each.ref, text=text))
    for key in ("task_type", "auto_mapping"):
        values = dict.fromkeys(str(v) for each in named if (v := each.adapter.config.get(key)))
        if len(values) > 1:
            said.append(
                Finding(
                    code="STK004", level="warning", place="adapter_config.json",
                    text=f"The adapters disagree on {key}: {first(values)}. The stack has the "
                    "first.",
                )
            )  # fmt: skip
    return said
