"""Layer against kind of module, as shades of likeness: where adapters agree and where they do not.

A cell is the cosine of two adapters' updates there, or the mean over all pairs that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from adaptertools.cli import _heat
from adaptertools.cli._heat import ABSENT, MOST_COLUMNS, MOST_ROWS, SHADES, UNKNOWN, WIDEST
from adaptertools.errors import Unsupported, shown
from adaptertools.targets import kind, place
from adaptertools.verbs._compare_parts import Compared, Comparison

TITLE = "Cosine by kind of module and layer"
AGAINST = "-=≡#"  # shades of what is opposed; by sign, because not all see colours
COLOURS, REDS = (24, 30, 72, 184), (52, 88, 124, 160)
ZERO = 0.02  # what random updates have by chance is drawn as nothing


@dataclass(frozen=True, slots=True)
class Grid:
    """Kinds of module by layers; None is a cosine that is not defined."""

    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    cells: dict[tuple[str, int], float | None]
    left_out: int


def grid(value: Comparison) -> Grid:
    """Sort modules of layers into a grid."""
    placed = [(m, layer) for m in value.modules if (layer := place(m.target)) is not None]
    labels = _heat.short({kind(module.target) for module, _ in placed})
    held: dict[tuple[str, int], list[Compared]] = {}
    for module, layer in placed:
        if module.pairs:
            held.setdefault((labels[kind(module.target)], layer), []).append(module)
    cells = {at: _mean(modules) for at, modules in held.items()}
    kinds = tuple(sorted({name for name, _ in cells}))
    layers = tuple(sorted({layer for _, layer in cells}))
    left = max(len(kinds) - MOST_ROWS, 0) + max(len(layers) - MOST_COLUMNS, 0)
    return Grid(kinds[:MOST_ROWS], layers[:MOST_COLUMNS], cells, left)


def _mean(modules: Sequence[Compared]) -> float | None:
    known = [p.cosine for module in modules for p in module.pairs if p.cosine is not None]
    return sum(known) / len(known) if known else None


def draw(value: Comparison, width: int, colour: bool) -> list[str]:
    """Draw it with characters, in strips where it is wider than the screen."""
    found = grid(value)
    if not found.cells:
        return []
    margin = max(map(len, found.kinds)) + 4
    room = max(width - margin, 10)
    wide = max(min(room // len(found.layers), WIDEST), 1)
    mean = ", mean over pairs" if len(value.adapters) > 2 else ""
    text = [f"{TITLE}{mean}:"]
    for start in range(0, len(found.layers), room // wide):
        layers = found.layers[start : start + room // wide]
        text.append(f"{'layer':>{margin - 2}}  {_heat.ruler(layers, wide)}".rstrip())
        for name in found.kinds:
            row = "".join(_cell(found, name, layer, colour, wide) for layer in layers)
            text.append(f"  {name:<{margin - 4}}  {row}".rstrip())
    text.append(f"  {_legend(colour)}")
    return text + [f"  … and {found.left_out} more kinds or layers"] * bool(found.left_out)


def _cell(found: Grid, name: str, layer: int, colour: bool, wide: int) -> str:
    if (name, layer) not in found.cells:
        return ABSENT * wide
    value = found.cells[name, layer]
    return UNKNOWN * wide if value is None else _sign(value, colour, wide)


def _sign(value: float, colour: bool, wide: int = 1) -> str:
    if abs(value) < ZERO:
        return _heat.NOTHING * wide
    step = min(int(abs(value) * len(SHADES)), len(SHADES) - 1)
    signs, colours = (SHADES, COLOURS) if value > 0 else (AGAINST, REDS)
    return click.style(signs[step] * wide, fg=colours[step]) if colour else signs[step] * wide


def _legend(colour: bool) -> str:
    steps = (0.125, 0.375, 0.625, 0.875)
    plus = "".join(_sign(step, colour) for step in steps)
    minus = "".join(_sign(-step, colour) for step in reversed(steps))
    return (f"-1 {minus}{_heat.NOTHING}{plus} 1, in steps of a quarter; {_heat.NOTHING} within "
            f"{ZERO}; {UNKNOWN} one is zero")  # fmt: skip


def letters(count: int) -> list[str]:
    """Give each adapter a short name: A, B … Z, A1, B1 …"""
    return [chr(65 + i % 26) + (str(i // 26) if i > 25 else "") for i in range(count)]


def picture(value: Comparison, file: str | Path) -> None:
    """Draw the cosines, kind of module against layer, and of each two adapters.

    Raises Unsupported where no module is of a layer.
    """
    found = grid(value)
    if not found.cells:
        raise Unsupported(
            f"--plot {shown(file)}: no module that two of them change is of a layer, so there is "
            "nothing to draw. Leave it out."
        )
    if Path(file).suffix == ".html":
        from adaptertools.cli import _compare_page

        Path(file).write_text(_compare_page.page(value, found), "utf-8")
        return
    from adaptertools.cli import _pictures

    _pictures.cosines(found, matrix(value), file)


def matrix(value: Comparison) -> list[list[Any]]:
    """Give the cosine of each two adapters; None where one is zero."""
    count = len(value.adapters)
    rows: list[list[Any]] = [
        [1.0 if i == j and side.norm else None for j in range(count)]
        for i, side in enumerate(value.adapters)
    ]
    for pair in value.pairs:
        rows[pair.a][pair.b] = rows[pair.b][pair.a] = pair.cosine
    return rows
