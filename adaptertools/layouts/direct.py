"""The name itself, or the name with the base-model prefix put on or taken off."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

# What a module's weight is called: most say `weight`, torch's MultiheadAttention fuses its inputs.
WEIGHTS = ("weight", "in_proj_weight")


class Names:
    """Finds the base's tensors by the names that an adapter uses."""

    def __init__(self, tensors: Collection[str], prefix: str) -> None:
        """Take the base's tensor names and the prefix of its model type."""
        self.tensors = tensors
        self.prefix = f"{prefix}." if prefix else ""

    def tensor(self, name: str) -> str | None:
        """Give the base's name of a tensor, None where it has none."""
        return next((n for n in self._spellings(name) if n in self.tensors), None)

    def weight(self, module: str) -> str | None:
        """Give the base's name of a module's weight, None where it has none."""
        return next((n for w in WEIGHTS if (n := self.tensor(f"{module}.{w}"))), None)

    def bias(self, weight: str) -> str | None:
        """Give the bias beside a weight, None where there is none."""
        name = weight.removesuffix("weight") + "bias"
        return name if name in self.tensors else None

    def beside_attention(self, weight: str) -> bool:
        """Tell whether a weight is the out_proj of a fused MultiheadAttention, or its in_proj."""
        module = weight.removesuffix(".out_proj.weight").removesuffix(".in_proj_weight")
        return module != weight and f"{module}.in_proj_weight" in self.tensors

    def nearest(self, name: str) -> str:
        """Give the most similar tensor name, empty where none is similar."""
        kind = name.split(".")[-2:]
        alike = [n for n in self.tensors if n.split(".")[-2:] == kind] or list(self.tensors)
        found = get_close_matches(name, alike[:2000], n=1, cutoff=0.3)
        return found[0] if found else ""

    def _spellings(self, name: str) -> list[str]:
        if not self.prefix:
            return [name]
        return [name, self.prefix + name, name.removeprefix(self.prefix)]
