"""Which rank each module gets, from the singular values of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptertools.errors import Unsupported
from adaptertools.verbs._stack_ask import Ask

if TYPE_CHECKING:
    from adaptertools.update import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """One module's singular values, down to its numerical rank."""

    target: str
    shape: tuple[int, int]
    values: Array  # float64, falling
    whole: int  # the rank that loses nothing
    largest: int  # the largest rank of a source there
    group: str  # modules of one group have one rank, by PEFT's rules
    filled: bool = False  # zeros are stored for it while anything of its group is kept

    @property
    def cost(self) -> int:
        """Parameters for each rank."""
        return sum(self.shape)


def choose(spectra: Sequence[Spectrum], ask: Ask, uniform: bool) -> dict[str, int]:
    """Give the rank of each module; 0 where nothing of it is kept."""
    ranks = _budget(spectra, ask.number) if ask.kind == "budget" else {
        spectrum.target: single(spectrum, ask) for spectrum in spectra
    }  # fmt: skip
    return padded(spectra, ranks, uniform)


def single(spectrum: Spectrum, ask: Ask) -> int:
    """Give a module's rank where it does not depend on the others."""
    import numpy as np

    full = len(spectrum.values)
    if ask.kind == "max":
        return min(full, spectrum.largest)
    if ask.kind == "number":
        return min(full, int(ask.number))
    if ask.kind == "energy" and full:
        kept = np.cumsum(spectrum.values**2)
        # A share of 1 is all of it, whatever rounding says of the last values.
        wanted = ask.number * kept[-1]
        return full if ask.number == 1 else min(int((kept < wanted).sum()) + 1, full)
    return spectrum.whole


def _budget(spectra: Sequence[Spectrum], number: float) -> dict[str, int]:
    """Keep the largest σ² per parameter of all modules, for as many as a uniform rank takes.

    Which is the smallest error that this many parameters allow: σ² is what each of them saves.
    """
    left = int(sum(spectrum.cost for spectrum in spectra) * number)
    groups: dict[str, list[Spectrum]] = {}
    for spectrum in spectra:
        groups.setdefault(spectrum.group, []).append(spectrum)
    costs = {group: sum(s.cost for s in own) for group, own in groups.items()}
    gains = [
        (
            -sum(float(s.values[at]) ** 2 for s in own if at < len(s.values)) / costs[group],
            at,
            group,
        )
        for group, own in groups.items()
        for at in range(max(len(s.values) for s in own))
    ]
    ranks = dict.fromkeys(groups, 0)
    for _, at, group in sorted(gains):
        if costs[group] <= left and ranks[group] == at:
            ranks[group], left = at + 1, left - costs[group]
    return {s.target: ranks[s.group] if s.filled else min(ranks[s.group], len(s.values))
            for s in spectra}  # fmt: skip


def padded(spectra: Sequence[Spectrum], ranks: Mapping[str, int], uniform: bool) -> dict[str, int]:
    """Raise ranks to that of their group, or of all; what keeps nothing stays out."""
    most: dict[str, int] = {}
    for spectrum in spectra:
        most[spectrum.group] = max(most.get(spectrum.group, 0), ranks[spectrum.target])
    all_of_them = max(most.values(), default=0)

    def raised(spectrum: Spectrum) -> int:
        own = most[spectrum.group] if spectrum.filled else ranks[spectrum.target]
        return (all_of_them if uniform else most[spectrum.group]) if own else 0

    return {spectrum.target: raised(spectrum) for spectrum in spectra}


def check_limit(
    spectra: Sequence[Spectrum], ranks: Mapping[str, int], limit: int, lossy: bool
) -> dict[str, int]:
    """Hold ranks against `--max-rank`; cut them where losing is allowed.

    Raises Unsupported with a table of ranks and of the energy that each would keep.
    """
    needed = max(ranks.values(), default=0)
    if needed > limit and not lossy:
        steps = sorted({limit, *(2**i for i in range(3, 20) if 2**i < needed)})
        rows = ", ".join(f"{step} -> {energy(spectra, step):.2%}" for step in steps)
        raise Unsupported(
            f"The result needs rank {needed}, and --max-rank is {limit}. Rank -> energy kept: "
            f"{rows}. Pass --allow-lossy to cut it there, or a larger --max-rank, or --rank."
        )
    return {target: min(rank, limit) for target, rank in ranks.items()}


def energy(spectra: Sequence[Spectrum], rank: int | Mapping[str, int]) -> float:
    """Give the share of Σσ² over all modules that these ranks keep."""
    kept = total = 0.0
    for spectrum in spectra:
        squares = spectrum.values**2
        total += float(squares.sum())
        kept += float(squares[: rank if isinstance(rank, int) else rank[spectrum.target]].sum())
    return kept / total if total else 1.0
