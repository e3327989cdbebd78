"""Pictures for files: the only door to matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from adaptertools.cli._retention import kind
from adaptertools.errors import Unsupported, shown
from adaptertools.rounding import Rounding


def retention(said: Sequence[Rounding], file: str | Path) -> None:
    """Draw, for each kind of module, how much of the update nearest would keep and what is kept.

    Raises Unsupported where matplotlib is missing, or where nothing is packed.
    """
    packed = [r for r in said if r.retention is not None]
    if not packed:
        raise Unsupported(
            f"--plot {shown(file)}: nothing is packed, so there is nothing to draw. Leave it out."
        )
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = sorted({kind(r.tensor) for r in packed})
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, name in enumerate(kinds):
        held = [r.retention for r in packed if kind(r.tensor) == name and r.retention]
        near = [r.nearest for r in held if r.nearest is not None]
        axes.barh(i + 0.2, median(r.kept for r in held), 0.38, color="tab:blue")
        if near:
            axes.barh(i - 0.2, median(near), 0.38, color="tab:orange")
    axes.barh(0, 0, color="tab:blue", label="kept")
    axes.barh(0, 0, color="tab:orange", label="nearest would keep")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_xlabel("share of the update that is in the weights (no accuracy)")
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(file)


def check_matplotlib() -> None:
    """Refuse where there is no matplotlib, naming the extra."""
    if find_spec("matplotlib") is None:
        raise Unsupported(
            "--plot needs matplotlib: not installed. Run `pip install 'adaptertools[plots]'`."
        )
