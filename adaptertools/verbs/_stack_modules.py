"""What a stack is made of, and one module of it: the parts, and their blend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

from adaptertools import plugins
from adaptertools.blends import Sketched
from adaptertools.blends._emulate import EMULATORS
from adaptertools.update.factors import Factors, Thin
from adaptertools.verbs._experts_apart import Expert
from adaptertools.verbs._sources_base import Shapes
from adaptertools.verbs._stack_ask import Options, Rule
from adaptertools.verbs._stack_match import Named, embeds
from adaptertools.verbs._stack_ranks import Spectrum

if TYPE_CHECKING:
    from adaptertools.blends import Blend
    from adaptertools.update import Array

EXACT = ("sum", "cat")  # what is Σ wᵢΔWᵢ, and so what biases follow as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is to be made of which adapters."""

    named: Sequence[Named]
    options: Options
    rules: Sequence[Rule] = ()
    base: Shapes | None = None

    def weight(self, each: Named, target: str) -> float:
        """Give an adapter's weight in a module: the last rule that matches, or its own."""
        for rule in reversed(self.rules):
            if rule.adapter in ("", each.ref) and rule.pattern.fullmatch(target):
                return rule.weight
        return each.weight

    def counts(self, each: Named, target: str) -> bool:
        """Tell whether an adapter has a part in a module; some tools count those of weight 0."""
        return target in each.source.entries and (
            self.options.emulate or self.weight(each, target) != 0
        )

    def targets(self) -> list[str]:
        """List the modules that any adapter has a part in."""
        return sorted({t for n in self.named for t in n.source.entries if self.counts(n, t)})

    def experts(self) -> dict[str, Expert]:
        """Give what is no module of its own but an expert of a parameter."""
        every = {t: e for n in self.named for t, e in n.source.experts.items()}
        return {t: every[t] for t in self.targets() if t in every} if every else {}

    def holders(self, target: str) -> list[Named]:
        """List the adapters that have a part in a module."""
        return [each for each in self.named if self.counts(each, target)]


@dataclass(frozen=True)
class Module:
    """A module with its parts loaded."""

    recipe: Recipe
    target: str
    holders: Sequence[Named]
    parts: Sequence[Factors]  # unweighted

    @classmethod
    def load(cls, recipe: Recipe, target: str) -> Module:
        """Read the factors of every adapter that changes it."""
        holders = recipe.holders(target)
        parts = [n.source.load(n.source.entries[target]) for n in holders]
        return cls(recipe, target, holders, parts)

    @property
    def expert(self) -> Expert | None:
        """What it is of a parameter, where it is an expert's."""
        return self.holders[0].source.experts.get(self.target)

    @cached_property
    def blended(self) -> Factors:
        """What `--how` makes of the parts."""
        options = self.recipe.options
        weights = [self.recipe.weight(n, self.target) for n in self.holders]
        asked = options.settings(self.target)
        if options.emulate:
            raw = [n.source.raw(n.source.entries[self.target]) for n in self.holders]
            made = EMULATORS[options.how](raw, weights, asked)
            return made.turned() if embeds(self.holders[0], self.target) else made
        blend = cast("Blend", plugins.load("blends", options.how.replace("-", "_")))
        return blend.blend(self.parts, weights, asked)

    @cached_property
    def thin(self) -> Thin:
        """Its singular value decomposition."""
        return self.blended.svd()

    @cached_property
    def found(self) -> float:
        """The share of the blend's energy that its factors hold: below 1 for entry-wise ones."""
        return self.blended.kept() if isinstance(self.blended, Sketched) else 1.0

    @property
    def norm(self) -> float:
        """The size of the blend, with what its factors do not hold."""
        kept = float((self.thin.s**2).sum())
        return float((kept / self.found) ** 0.5) if self.found else 0.0

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the weight."""
        return self.holders[0].source.axes(self.target)

    def bias(self) -> Array:
        """Give Σ wᵢbᵢ of what is added to the bias, in float64."""
        import numpy as np

        total = np.zeros(self.axes[0])
        for each in self.holders:
            own = each.source.bias(each.source.entries[self.target])
            if own is not None:
                total += self.recipe.weight(each, self.target) * own
        return total

    @property
    def whole(self) -> int:
        """The rank that loses nothing: the least one, or that of concatenation where asked for."""
        return self.blended.rank if self.recipe.options.how == "cat" else self.thin.rank

    def spectrum(self) -> Spectrum:
        """Give what choosing a rank needs."""
        entries = [n.source.entries[self.target] for n in self.holders]
        nested = any(entry.nested for entry in entries)
        expert = self.expert
        group = self.target.rpartition(".")[0] if nested else self.target
        return Spectrum(
            target=self.target, shape=self.thin.shape, values=self.thin.s, whole=self.whole,
            largest=max(part.rank for part in self.parts),
            group=expert.ranked if expert else group, filled=expert is not None,
        )  # fmt: skip
