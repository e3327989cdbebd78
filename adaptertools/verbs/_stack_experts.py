"""Experts of a stack, put together again: one pair of factors for each parameter, as PEFT has it.

The layout is that of PEFT 0.19.1 and later where a base said which parameter is meant, else that of
the adapters. Experts that nothing is stored for get zeros; a module's last parameter is outermost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adaptertools.errors import Unsupported, first, shown
from adaptertools.formats._experts_pack import packed
from adaptertools.formats._peft_write import Line
from adaptertools.peft_keys import PREFIX
from adaptertools.verbs._experts_apart import Expert
from adaptertools.verbs._stack_modules import Recipe

if TYPE_CHECKING:
    from adaptertools.update import Array

VERSION = "0.19.1"  # of the layout, which every later PEFT has as well
# What Unsloth says of how experts are packed; stacks have them as PEFT has.
_PACKING = ("lora_B_layout", "unsloth_fused_expert_lora", "unsloth_fixed")


def check_experts(recipe: Recipe) -> None:
    """Refuse what PEFT has not beside adapted parameters; raises Unsupported."""
    experts = recipe.experts()
    if not experts:
        return
    if recipe.options.emulate:
        raise Unsupported(
            f"--emulate {recipe.options.how}: no tool has numbers for fused experts "
            f"({first(experts, 1)}). Pass --how instead."
        )
    _check_whole(recipe, experts)
    for each in recipe.named:
        if bias := [e for e in each.source.entries.values() if "lora_B.bias" in e.parts]:
            raise Unsupported(
                f"{shown(each.ref)} has lora_bias ({shown(bias[0].target)}), and PEFT has no "
                f"biases beside fused experts ({first(experts, 1)}). Use `adaptertools merge`."
            )


def _check_whole(recipe: Recipe, experts: Mapping[str, Expert]) -> None:
    """Refuse to leave a parameter out whose name is not known."""
    modules = {expert.module for expert in experts.values()}
    every = (e for each in recipe.named for e in each.source.experts.values() if not e.parameter)
    gone = {e.group for e in every if e.module in modules} - {e.group for e in experts.values()}
    if gone:
        raise Unsupported(
            f"{first(sorted(gone), 1)} has no weight other than 0, and which parameter that is "
            "only the base tells. Pass the model as --base; only its config and headers are read."
        )


def parameters(recipe: Recipe, ranks: Mapping[str, int]) -> dict[str, int]:
    """Give the rank of each parameter that is stored, by its full name."""
    found: dict[str, int] = {}
    for target, expert in recipe.experts().items():
        if rank := ranks.get(target):
            own = (expert.parameter,) if expert.parameter else expert.order
            found |= {f"{expert.module}.{name}": rank for name in own}
    return found


def config(recipe: Recipe, names: Mapping[str, int], auto: Any) -> dict[str, Any]:
    """Give what the config says of parameters; `auto` is the auto_mapping of the adapters."""
    if not names:
        return {}
    bare = any(not expert.parameter for expert in recipe.experts().values())
    said = [each.adapter.config.get("peft_version") for each in recipe.named
            if each.source.experts]  # fmt: skip
    kept = {k: v for k, v in auto.items() if k not in _PACKING} if isinstance(auto, dict) else auto
    return {
        "target_parameters": sorted(names), "fan_in_fan_out": False, "auto_mapping": kept or None,
        "peft_version": said[0] if bare else VERSION,
    }  # fmt: skip


def lines(recipe: Recipe, code: str, most: int) -> Iterator[Line]:
    """Give the longest that the header can become."""
    groups = {expert.group: (t, expert) for t, expert in recipe.experts().items()}
    for target, expert in groups.values():
        name = _key(expert, len(_after(expert)) if expert.parameter else expert.depth)
        height, width = recipe.holders(target)[0].source.shape(target)
        if expert.turned:
            height, width = width, height
        yield f"{name}.lora_A.weight", code, (expert.count * most, width)
        yield f"{name}.lora_B.weight", code, (height, most * expert.count)


class Together:
    """Collects experts' factors, and gives those of a parameter when its last one has come."""

    def __init__(self, recipe: Recipe, targets: Sequence[str], ranks: Mapping[str, int]) -> None:
        """Take what is to come: of experts only those with a rank."""
        every = recipe.experts()
        kept = [every[t] for t in targets if t in every and ranks[t]]
        self._left = Counter(expert.group for expert in kept)
        self._names = {(expert.module, expert.parameter) for expert in kept}
        # A base of single experts may name fewer of a module's parameters: the longest list counts.
        fuller = sorted(kept, key=lambda expert: len(expert.order))
        self._after = {e.group: _after(e) for e in fuller if e.parameter}
        self._held: dict[str, tuple[Array, Array]] = {}

    def add(self, expert: Expert, up: Array, down: Array) -> Iterator[tuple[str, Array]]:
        """Take one expert's factors, (m, r) and (r, n), of the rank that all have."""
        import numpy as np

        if expert.group not in self._held:
            self._held[expert.group] = (
                np.zeros((expert.count, *down.shape), down.dtype),
                np.zeros((expert.count, *up.shape), up.dtype),
            )
        downs, ups = self._held[expert.group]
        downs[expert.number], ups[expert.number] = down, up
        self._left[expert.group] -= 1
        if not self._left[expert.group]:
            a, b = packed(*self._held.pop(expert.group), turned=expert.turned)
            name = _key(expert, self._depth(expert))
            yield f"{name}.lora_A.weight", a
            yield f"{name}.lora_B.weight", b

    def _depth(self, expert: Expert) -> int:
        """Count the module's parameters that come after it."""
        if not expert.parameter:
            return expert.depth
        after = self._after[expert.group]
        return sum((expert.module, name) in self._names for name in after)


def _after(expert: Expert) -> tuple[str, ...]:
    """Give the module's parameters that come after it, and so are wrapped around it."""
    return expert.order[expert.order.index(expert.parameter) + 1 :]


def _key(expert: Expert, depth: int) -> str:
    return f"{PREFIX}{expert.module}{'.base_layer' * depth}"
