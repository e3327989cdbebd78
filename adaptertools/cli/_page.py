"""An adapter's sizes as one HTML page: no script, nothing fetched, every name escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from html import escape
from typing import Protocol

from adaptertools.cli._heat import TITLE, Heat, level
from adaptertools.errors import shown
from adaptertools.verbs.inspect import Inspection

CELL, MARGIN, TOP = 16, 220, 24
STEPS = 9
MOST = 5000  # modules in the table

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
code, td, th { font: 12px/1.6 ui-monospace, monospace }
svg text { font: 11px ui-monospace, monospace }
td, th { padding: 0 .8em; text-align: right }
td:first-child, th:first-child { text-align: left }
.scroll { overflow-x: auto }
"""


def page(found: Inspection, grid: Heat) -> str:
    """Write the page: what it is, the heat map, and a row for each module."""
    name = safe(found.ref)
    facts = [("base", found.base or "not named"), ("method", found.method or "unknown"),
             *(("targets", each) for each in found.targets[:100])]  # fmt: skip
    said = "".join(f"<li>{key}: <code>{safe(value)}</code></li>" for key, value in facts)
    notes = "".join(f"<li>{safe(note)}</li>" for note in found.notes)
    drawn = "".join(chart(grid, partial(_cell, grid)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1><code>{name}</code></h1>\n<ul>{said}{notes}</ul>"
        f'\n<h2>{TITLE}</h2>\n<div class="scroll">{drawn}</div>\n'
        f"<p>{_legend(grid)}</p>\n<table>{''.join(_table(found))}</table>\n</body></html>\n"
    )


def safe(text: str) -> str:
    """Write what comes from a stranger so that it is text in a page, on one line."""
    return escape(shown(text, 400), quote=True)


class Chart(Protocol):
    """Kinds of module by layers, and which of them there are."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The rows."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """The columns."""
        ...

    @property
    def cells(self) -> Mapping[tuple[str, int], float | None]:
        """What is in them."""
        ...


def chart(grid: Chart, cell: Callable[[str, int, int, int], str]) -> Iterator[str]:
    """Draw kinds by layers; `cell` gives the square of a kind and a layer at x and y."""
    width = MARGIN + CELL * len(grid.layers) + CELL
    height = TOP + CELL * len(grid.kinds) + CELL
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">'
    for column, layer in enumerate(grid.layers):
        if column % 5 == 0:
            yield f'<text x="{MARGIN + CELL * column}" y="{TOP - 6}">{layer}</text>'
    for row, name in enumerate(grid.kinds):
        y = TOP + CELL * row
        yield f'<text x="{MARGIN - 6}" y="{y + 12}" text-anchor="end">{safe(name)}</text>'
        for column, layer in enumerate(grid.layers):
            if (name, layer) in grid.cells:
                yield cell(name, layer, MARGIN + CELL * column, y)
    yield "</svg>"


def _cell(grid: Heat, name: str, layer: int, x: int, y: int) -> str:
    size = grid.cells[name, layer]
    words = "unknown" if size is None else f"{size:.4g}"
    colour = "none" if size is None else _colour(level(size, grid.largest, STEPS))
    title = f"<title>{safe(name)}, layer {layer}: {words}</title>"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{colour}" '
        f'stroke="#ccc" stroke-width=".5">{title}</rect>'
    )


def _colour(step: int) -> str:
    """Give a colour from white, for nothing, to dark blue."""
    return f"hsl(220, 80%, {100 - 70 * step // STEPS}%)"


def _legend(grid: Heat) -> str:
    boxes = "".join(
        f'<svg width="{CELL}" height="{CELL}"><rect width="{CELL}" height="{CELL}" '
        f'fill="{_colour(step)}" stroke="#ccc"/></svg>'
        for step in range(STEPS + 1)
    )
    return f"0 {boxes} {grid.largest:.4g}; no square: no such module; empty: unknown"


def _table(found: Inspection) -> Iterator[str]:
    heads = ("module", "‖ΔW‖", "spectral", "effective rank", "stable rank", "rank", "zeros in B")
    yield "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    norms = found.norms or ()
    for norm in norms[:MOST]:
        sizes = (norm.norm, norm.spectral, norm.effective_rank, norm.stable_rank, norm.rank,
                 norm.zeros)  # fmt: skip
        cells = "".join(f"<td>{'-' if s is None else f'{s:.4g}'}</td>" for s in sizes)
        yield f"<tr><td>{safe(norm.name)}</td>{cells}</tr>\n"
    if len(norms) > MOST:
        yield f"<tr><td>… and {len(norms) - MOST} more</td></tr>"
