"""The name itself, or the name with the base-model prefix put on or taken off.

Only where that finds nothing is transformers asked how it reads such a checkpoint (`converted`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import TYPE_CHECKING

from adaptertools.layouts.pieces import Piece

if TYPE_CHECKING:
    from adaptertools.layouts.converted import Layout

# What a module's weight is called: most say `weight`, torch's MultiheadAttention fuses its inputs.
WEIGHTS = ("weight", "in_proj_weight")


class Names:
    """Finds the base's tensors by the names that an adapter uses."""

    def __init__(
        self,
        tensors: Collection[str],
        prefix: str,
        layout: Callable[[], Layout | None] = lambda: None,
    ) -> None:
        """Take the base's tensor names, the prefix of its model type, and where more is known."""
        self.tensors = tensors
        self.prefix = f"{prefix}." if prefix else ""
        self.layout = layout

    def tensor(self, name: str) -> str | None:
        """Give the base's name of a tensor, None where it has none."""
        return next((n for n in self._spellings(name) if n in self.tensors), None)

    def weight(self, module: str) -> str | None:
        """Give the base's name of a module's weight, None where it has none."""
        return next((n for w in WEIGHTS if (n := self.tensor(f"{module}.{w}"))), None)

    def pieces(self, name: str) -> tuple[Piece, ...]:
        """Give the blocks of the base's tensors that are this tensor; none where it has none."""
        found = self.tensor(name)
        return (Piece(tensor=found),) if found else self.converted(name)

    def converted(self, name: str) -> tuple[Piece, ...]:
        """Give them as transformers reads the base, also where it has a tensor of that name."""
        layout = self.layout()
        return layout.find(name) if layout else ()

    def renamed(self, name: str) -> str | None:
        """Give the base's name of a tensor that it holds whole, under whatever name."""
        found = self.pieces(name)
        return found[0].tensor if len(found) == 1 and found[0].plain else None

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
