"""Pictures for files: the only door to matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from adaptertools.cli import _heat, _page
from adaptertools.cli._cosines import Grid, letters
from adaptertools.cli._retention import kind
from adaptertools.errors import NotFound, Unsupported, shown
from adaptertools.rounding import Rounding
from adaptertools.verbs.inspect import Inspection

ENDINGS = (".png", ".svg", ".pdf")
PAGE = ".html"


def retention(said: Sequence[Rounding], file: str | Path) -> None:
    """Draw, for each kind of module, how much of the update nearest would keep and what is kept.

    Raises Unsupported where matplotlib is missing, or where nothing is packed.
    """
    packed = [r for r in said if r.retention is not None]
    if not packed:
        raise Unsupported(
            f"--plot {shown(file)}: nothing is packed, so there is nothing to draw. Leave it out."
        )
    check(file)
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


def heat(found: Inspection, file: str | Path) -> None:
    """Draw the sizes of an adapter's changes, kind of module against layer.

    Raises Unsupported where there are no sizes, or no matplotlib for a picture that is no page.
    """
    grid = _heat.heat(found.norms or ())
    if not grid.cells:
        why = "; ".join(found.notes) or "it holds no factors of a LoRA in layers"
        raise Unsupported(f"--plot {shown(file)}: there are no sizes to draw: {why}")
    if Path(file).suffix == PAGE:
        Path(file).write_text(_page.page(found, grid), "utf-8")
        return
    check(file)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (max(6, 2.5 + 0.22 * len(grid.layers)), 1.5 + 0.3 * len(grid.kinds))
    figure = Figure(figsize=(min(size[0], 60), size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sizes = [[grid.cells.get((name, at)) for at in grid.layers] for name in grid.kinds]
    rows = [[float("nan") if each is None else each for each in row] for row in sizes]
    image = axes.imshow(rows, aspect="auto", cmap="viridis", vmin=0, vmax=grid.largest or 1)
    # A name from a stranger is no formula.
    axes.set_yticks(range(len(grid.kinds)), grid.kinds, parse_math=False)
    step = max(len(grid.layers) // 24, 1)
    ticks = range(0, len(grid.layers), step)
    axes.set_xticks(ticks, [str(grid.layers[at]) for at in ticks])
    axes.set_xlabel("layer")
    axes.set_title(shown(Path(found.ref).name, 60), fontsize=10, parse_math=False)
    figure.colorbar(image, label="‖ΔW‖")
    figure.savefig(file)


def cosines(grid: Grid, matrix: Sequence[Sequence[float | None]], file: str | Path) -> None:
    """Draw cosines: of each two adapters, and of kind of module against layer.

    Raises Unsupported where matplotlib is missing.
    """
    check(file)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = min(max(8, 5.5 + 0.22 * len(grid.layers)), 60)
    figure = Figure(figsize=(width, max(3, 1.5 + 0.3 * len(grid.kinds))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2.5, width - 2.5))
    names = letters(len(matrix))
    cells = [[grid.cells.get((name, at)) for at in grid.layers] for name in grid.kinds]
    for axes, rows in ((left, matrix), (right, cells)):
        known = [[float("nan") if each is None else each for each in row] for row in rows]
        image = axes.imshow(known, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
    left.set_xticks(range(len(names)), names)
    left.set_yticks(range(len(names)), names)
    # A name from a stranger is no formula.
    right.set_yticks(range(len(grid.kinds)), grid.kinds, parse_math=False)
    step = max(len(grid.layers) // 24, 1)
    ticks = range(0, len(grid.layers), step)
    right.set_xticks(ticks, [str(grid.layers[at]) for at in ticks])
    right.set_xlabel("layer")
    figure.colorbar(image, label="cosine")
    figure.savefig(file)


def check(file: str | Path, *, pages: bool = False) -> None:
    """Refuse a picture that could not be drawn, before any work is done for it."""
    page = pages and Path(file).suffix == PAGE
    if find_spec("matplotlib") is None and not page:
        raise Unsupported(
            "--plot needs matplotlib: not installed. Run `pip install 'adaptertools[plots]'`."
        )
    place = Path(file)
    if place.is_dir() or not place.absolute().parent.is_dir():
        raise NotFound(f"--plot {shown(file)}: a file in a folder that exists was expected.")
    known = (*ENDINGS, PAGE) if pages else ENDINGS
    if place.suffix not in known:
        raise Unsupported(f"--plot {shown(file)}: name a file with {', '.join(known)}.")
