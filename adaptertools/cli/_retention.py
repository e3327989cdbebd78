"""What became of the update in a packed model, as a table with bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from adaptertools.errors import shown
from adaptertools.rounding import Rounding

BAR = 20  # characters of a full bar
HEAD = (
    "module",
    "tensors",
    "update",
    "nearest",
    "kept",
    "",
    "in band",
    "noise",
    "moved",
    "clipped",
)


def table(said: Sequence[Rounding]) -> list[str]:
    """Give a line per kind of module, medians over its tensors; empty where nothing is packed."""
    groups: dict[str, list[Rounding]] = {}
    for rounding in said:
        if rounding.retention is not None:
            groups.setdefault(kind(rounding.tensor), []).append(rounding)
    if not groups:
        return []
    rows = [HEAD, *(_row(name, held) for name, held in sorted(groups.items()))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if i in (0, 5) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def kind(tensor: str) -> str:
    """Name the kind of module that a tensor belongs to: q_proj, down_proj …"""
    return shown(tensor.removesuffix(".weight").rpartition(".")[2])


def _row(name: str, held: Sequence[Rounding]) -> tuple[str, ...]:
    every = [r.retention for r in held if r.retention is not None]
    kept = median(r.kept for r in every)
    return (
        name, str(len(held)), f"{median(r.update_norm for r in held):.2%}",
        _percent(r.nearest for r in every), f"{kept:.1%}", bar(kept),
        _percent((r.in_band for r in every), ".0%"), f"{median(r.noise for r in every):.1%}",
        f"{median(r.moved for r in every):.1%}", str(sum(r.clipped for r in every)),
    )  # fmt: skip


def _percent(values: Iterable[float | None], spec: str = ".1%") -> str:
    known = [value for value in values if value is not None]
    return format(median(known), spec) if known else "-"


def bar(share: float) -> str:
    """Draw a share from 0 to 1."""
    full = round(min(max(share, 0.0), 1.0) * BAR)
    return "█" * full + "·" * (BAR - full)
