"""rank_pattern and alpha_pattern of very many modules: by a name's end wherever that will do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

_N = TypeVar("_N", int, float)


class Patterns(NamedTuple, Generic[_N]):
    """The usual value, and those of other modules by pattern."""

    usual: _N
    others: dict[str, _N]


def patterns(values: Mapping[str, _N]) -> Patterns[_N]:
    """Give the usual value, and a pattern for each other: the last name, else all of it.

    A last name stands for a module only where all modules of that name have its value.
    """
    counted = Counter(values.values())
    usual = max(counted, key=lambda value: (counted[value], value))
    kinds: defaultdict[str, set[_N]] = defaultdict(set)
    for name, value in values.items():
        kinds[name.rpartition(".")[2]].add(value)
    found = {}
    for name, value in values.items():
        last = name.rpartition(".")[2]
        if value != usual:
            found[last if len(kinds[last]) == 1 else name] = value
    return Patterns(usual, dict(sorted(found.items())))


def alpha_of(scale: float, rank: int, stable: bool = False) -> float:
    """Give the alpha of a scale: alpha / r, or alpha / sqrt(r) when rank-stabilised."""
    divisor = rank**0.5 if stable else float(rank)
    exact = scale * divisor
    near = float(f"{exact:.12g}")  # 16 / sqrt(8) · sqrt(8) is 16 but for its last bit
    alpha = near if near / divisor == scale else exact
    return int(alpha) if alpha == int(alpha) else alpha
