"""Give an adapter another rank: the nearest one of that rank, and how near that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adaptertools.adapter import Adapter
from adaptertools.report import Report
from adaptertools.verbs.stack import stack


def _silent(count: int) -> None:
    """Take progress and say nothing."""


def resize(
    adapter: str | Path | Adapter, *, out: str | Path, rank: str | int, uniform_rank: bool = False,
    dtype: str | None = None, base: str | Path | None = None, expert_packing: str | None = None,
    verify: bool = False, dry_run: bool = False, progress: Callable[[int], None] = _silent,
) -> Report:  # fmt: skip
    """Write an adapter with another rank: a stack of one.

    The truncated singular value decomposition of s·B·A is the nearest of its rank (Eckart and
    Young 1936), made from the factors in float64. The report gives each module's share of the
    energy; √(1 − energy) is its relative error.

    Args:
        adapter: a folder, Hub reference or open adapter.
        out: the folder to create.
        rank: N, "energy:0.99" (the least rank of each module that keeps that share of Σσ²),
            "budget:N" (the least error for as many parameters as rank N takes), or "auto".
        uniform_rank, dtype, base, expert_packing, verify, dry_run, progress: as of `stack`.

    Raises what `stack` raises.
    """
    report = stack(
        [adapter], out=out, rank=rank, uniform_rank=uniform_rank, dtype=dtype, base=base,
        expert_packing=expert_packing, verify=verify, dry_run=dry_run, progress=progress,
    )  # fmt: skip
    return replace(report, verb="resize")
