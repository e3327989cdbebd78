"""The factors of single experts, stacked as MLX-LM has them: (E, r, in) and (E, out, r)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, shown
from adaptertools.formats._mlx_names import expert
from adaptertools.formats._modules import Module
from adaptertools.report import Finding

if TYPE_CHECKING:
    from adaptertools.update import Array

_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


class Stacks:
    """Experts that come one by one; those that the adapter leaves alone get zeros."""

    def __init__(self, adapter: Adapter, base: Mapping[str, Any]) -> None:
        self.findings: list[Finding] = []
        self._ref = adapter.ref
        self._parts: defaultdict[str, dict[int, Module]] = defaultdict(dict)
        found = [expert(entry.target) for entry in adapter.entries]
        highest = max((each.number for each in found if each), default=-1)
        said = next((base[key] for key in _COUNTS if isinstance(base.get(key), int)), None)
        self._count = said if said is not None else highest + 1
        if highest >= self._count:
            raise Mismatch(
                f"{shown(adapter.ref)} adapts expert {highest}, and the base has {self._count}. "
                "Give the base that it was trained on."
            )
        if highest >= 0 and said is None:
            self.findings.append(self.note(
                "CNV022", f"Taken to have {self._count} experts, the highest that is adapted. "
                "Pass --base where that is not all.",
            ))  # fmt: skip

    def note(self, code: str, text: str) -> Finding:
        """Say something about the adapter."""
        return Finding(code=code, level="note", place=self._ref, text=text)

    def add(self, module: Module) -> None:
        """Keep one expert's factors."""
        found = expert(module.target)
        if found:
            self._parts[found.stack][found.number] = module

    def whole(self) -> Iterator[tuple[str, Array, Array]]:
        """Give each stack: its name, down and up."""
        for name, held in self._parts.items():
            yield name, self._one(name, held, "down"), self._one(name, held, "up")

    def _one(self, name: str, held: Mapping[int, Module], which: str) -> Array:
        import numpy as np

        arrays: dict[int, Array] = {n: getattr(module, which) for n, module in held.items()}
        shapes = {(array.shape, array.dtype) for array in arrays.values()}
        if len(shapes) > 1:
            raise Mismatch(f"{shown(name)}: its experts' factors differ in shape or dtype.")
        ((shape, dtype),) = shapes
        made = np.zeros((self._count, *shape), dtype)
        for number, array in arrays.items():
            made[number] = array
        return made
