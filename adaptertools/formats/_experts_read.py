"""Fused experts of a PEFT adapter (`target_parameters`), as arrays of single experts.

What a base must say to tell which is which, its config says of a family that is known: no weights
and no code of the model are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Adapter, Entry
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.formats._experts_names import Sizes
from adaptertools.formats._experts_pack import unpacked

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True)
class Pack:
    """One fused weight's factors, as they are stored."""

    module: str  # "model.layers.0.mlp.experts"
    parameter: str  # "gate_up_proj"
    entry: Entry
    experts: int
    turned: bool  # A is over the outputs
    rank_major: bool

    @property
    def name(self) -> str:
        """The weight's full name."""
        return f"{self.module}.{self.parameter}"

    def load(self) -> tuple[Array, Array]:
        """Read every expert's factors, down (E, r, in) and up (E, out, r), in their dtypes."""
        a, b = (tensorfile.read(self.entry.parts[role]) for role in ("lora_A", "lora_B"))
        major = not self.rank_major
        return unpacked(a, b, self.experts, turned=self.turned, expert_major=major)


@dataclass(frozen=True, slots=True)
class Known:
    """What a base has, by its config and the sizes of an adapter's factors."""

    adapter: Adapter
    sizes: Sizes

    def parameters(self, module: str) -> tuple[str, ...]:
        """Name a module's own parameters in their order."""
        names = self.sizes.names
        return tuple(names.parts) if f".{module}".endswith(names.fused) else ("weight",)

    def shape(self, name: str) -> tuple[int, ...]:
        """Give a weight's shape: the hidden size is known, the other is the factors' other one."""
        module, _, parameter = name.rpartition(".")
        own = self.parameters(module)
        entries = [e for e in self.adapter.entries if e.target == module]
        if parameter == "weight":
            return _matrix(entries[0])
        listed = self.adapter.config.get("target_parameters") or ()
        meant = [p for p in own if named(f"{module}.{p}", listed)]
        depth = len(meant) - 1 - meant.index(parameter)
        other, hidden = self._apart(next(e for e in entries if e.depth == depth))
        shape = (hidden, other) if parameter == "down_proj" else (other, hidden)
        return self.sizes.experts, *(shape[::-1] if self.sizes.names.in_out else shape)

    def is_transposed(self, module: str) -> bool:
        """Tell whether a module of experts holds its weights as (in, out)."""
        return self.sizes.names.in_out and module.endswith(".experts")

    def _apart(self, entry: Entry) -> tuple[int, int]:
        both, hidden = list(_matrix(entry)), self.sizes.hidden
        if hidden in both:
            both.remove(hidden)
        return both[0], hidden


def named(name: str, listed: object) -> bool:
    """Tell what PEFT tells of a parameter's name and target_parameters (tuners_utils.py)."""
    found = listed if isinstance(listed, list | tuple) else ()
    return any(isinstance(end, str) and f".{name}".endswith(f".{end}") for end in found)


def check_known(adapter: Adapter, sizes: Sizes) -> None:
    """Refuse parameters that are no family's experts and no module's weight."""
    listed = adapter.config.get("target_parameters") or ()
    parts = (*sizes.names.parts, "weight")
    known = [f"{entry.target}.{part}" for entry in adapter.entries for part in parts]
    if odd := [end for end in listed if not any(named(name, [end]) for name in known)]:
        raise Unsupported(
            f"{shown(adapter.ref)}: target_parameters has {first(odd)}. Of the experts of this "
            f"base's family only {first(sizes.names.parts)} can be converted. Merge it instead."
        )


def packs(adapter: Adapter, sizes: Sizes) -> tuple[Pack, ...]:
    """Give the fused weights of an adapter whose entries say what they are of.

    Raises Mismatch where rows or columns are not those of so many experts of the config's rank.
    """
    found = []
    for entry in adapter.entries:
        module, _, parameter = entry.fused.parameter.rpartition(".") if entry.fused else ("",) * 3
        if entry.fused and parameter in sizes.names.parts:
            _check(entry, sizes.experts, entry.fused.parameter)
            turned = entry.fused.turned != sizes.names.in_out
            major = entry.fused.rank_major
            found.append(Pack(module, parameter, entry, sizes.experts, turned, major))
    return tuple(found)


def _check(entry: Entry, experts: int, name: str) -> None:
    a, b = entry.parts["lora_A"], entry.parts["lora_B"]
    if a.rows != entry.rank * experts or b.columns != a.rows:
        raise Mismatch(
            f"{shown(name)}: lora_A is {list(a.shape)} and lora_B {list(b.shape)}; for {experts} "
            f"experts of rank {entry.rank}, {experts * entry.rank} rows and columns were expected. "
            "Is it another base, or another config?"
        )


def _matrix(entry: Entry) -> tuple[int, int]:
    a, b = entry.parts.get("lora_A"), entry.parts.get("lora_B")
    return b.rows if b else 0, a.columns if a else 0
