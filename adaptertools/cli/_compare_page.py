"""A comparison as one HTML page: no script, nothing fetched, every name escaped."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from adaptertools.cli._cosines import TITLE, Grid, letters, matrix
from adaptertools.cli._page import CELL, MOST, STYLE, chart, safe
from adaptertools.verbs._compare_parts import Comparison


def page(value: Comparison, grid: Grid) -> str:
    """Write the page: the adapters, the cosines of each two, the map, and a row per module."""
    names = letters(len(value.adapters))
    said = "".join(
        f"<li>{name}: <code>{safe(side.ref)}</code>, {side.modules} modules, rank {side.rank}, "
        f"‖ΔW‖ {side.norm:.4g}</li>"
        for name, side in zip(names, value.adapters, strict=True)
    )
    notes = "".join(f"<li>{f.code} {safe(f.place)} {safe(f.text)}</li>" for f in value.findings)
    drawn = "".join(chart(grid, partial(_cell, grid)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>compare</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>compare</h1>\n<ul>{said}{notes}</ul>\n"
        f"<table>{''.join(_matrix(value, names))}</table>\n"
        f'<h2>{TITLE}</h2>\n<div class="scroll">{drawn}</div>\n'
        "<p>red −1, white 0, blue 1; no square: no two of them change it</p>\n"
        f"<table>{''.join(_table(value, names))}</table>\n</body></html>\n"
    )


def _matrix(value: Comparison, names: list[str]) -> Iterator[str]:
    yield f"<tr><th>cosine</th>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    for name, row in zip(names, matrix(value), strict=True):
        cells = (f'<td style="background:{_colour(c)}">{_number(c)}</td>' for c in row)
        yield f"<tr><td>{name}</td>{''.join(cells)}</tr>\n"


def _cell(grid: Grid, name: str, layer: int, x: int, y: int) -> str:
    at = grid.cells[name, layer]
    title = f"<title>{safe(name)}, layer {layer}: {_number(at)}</title>"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{_colour(at)}" '
        f'stroke="#ccc" stroke-width=".5">{title}</rect>'
    )


def _colour(cosine: float | None) -> str:
    """Give a colour: white for 0, blue for 1, red for −1."""
    if cosine is None:
        return "none"
    return f"hsl({220 if cosine > 0 else 0}, 80%, {100 - round(60 * abs(cosine))}%)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(value: Comparison, names: list[str]) -> Iterator[str]:
    heads = ("module", "pair", "cosine", "reads alike", "writes alike", "energy", "opposite signs")
    yield "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    rows = [(module, pair) for module in value.modules for pair in module.pairs]
    for module, pair in rows[:MOST]:
        left = pair.left.overlap if pair.left else None
        right = pair.right.overlap if pair.right else None
        figures = (pair.cosine, right, left, pair.energy, pair.conflict.value)
        cells = "".join(f"<td>{_number(each)}</td>" for each in figures)
        two = f"{names[pair.a]}, {names[pair.b]}"
        yield f"<tr><td>{safe(module.target)}</td><td>{two}</td>{cells}</tr>\n"
    if len(rows) > MOST:
        yield f"<tr><td>… and {len(rows) - MOST} more</td></tr>"
