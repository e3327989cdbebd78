"""Layer against kind of module, as shades: the sizes of an adapter's changes at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING

import click

from adaptertools.errors import shown
from adaptertools.targets import kind, place

SHADES = "░▒▓█"
NOTHING, UNKNOWN, ABSENT = "·", "?", " "
COLOURS = (24, 30, 72, 184)  # of 256, dark to bright as the shades
MOST_ROWS, MOST_COLUMNS = 60, 1000  # what is drawn of more is the first of them
WIDEST = 3  # characters of a cell, where there is room
TITLE = "‖ΔW‖ by kind of module and layer"

if TYPE_CHECKING:
    from adaptertools.verbs._inspect_deep import Norm


@dataclass(frozen=True, slots=True)
class Heat:
    """A grid of sizes: kinds of module by layers; None is a size that is not known."""

    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    cells: Mapping[tuple[str, int], float | None]
    elsewhere: Mapping[str, float | None]  # modules of no layer
    left_out: int  # kinds and layers that there was no room for

    @property
    def largest(self) -> float:
        """The largest size in a cell."""
        return max((size for size in self.cells.values() if size), default=0.0)


def heat(norms: Sequence[Norm]) -> Heat:
    """Sort sizes into a grid; several modules in a cell count as one, by the root of squares."""
    labels = short({kind(norm.target) for norm in norms if place(norm.target) is not None})
    cells: dict[tuple[str, int], float | None] = {}
    elsewhere: dict[str, float | None] = {}
    for norm in norms:
        layer = place(norm.target)
        if layer is None:
            elsewhere[shown(norm.target, 60)] = norm.norm
            continue
        at = labels[kind(norm.target)], layer
        before = cells.get(at, 0.0)
        cells[at] = None if None in (before, norm.norm) else hypot(before or 0, norm.norm or 0)
    kinds, layers = tuple(sorted(labels.values())), tuple(sorted({layer for _, layer in cells}))
    left = max(len(kinds) - MOST_ROWS, 0) + max(len(layers) - MOST_COLUMNS, 0)
    return Heat(kinds[:MOST_ROWS], layers[:MOST_COLUMNS], cells, elsewhere, left)


def short(kinds: set[str]) -> dict[str, str]:
    """Give each kind the shortest end of its name that no other has."""
    labels: dict[str, str] = {}
    todo, count = set(kinds), 1
    while todo:
        ends: dict[str, list[str]] = {}
        for name in todo:
            ends.setdefault(".".join(name.split(".")[-count:]), []).append(name)
        alone = {names[0]: end for end, names in ends.items() if len(names) == 1}
        whole = {name: name for name in todo if name.count(".") < count}
        labels |= whole | alone
        todo -= alone.keys() | whole.keys()
        count += 1
    return {name: shown(label, 40) for name, label in labels.items()}


def draw(grid: Heat, width: int, colour: bool) -> list[str]:
    """Draw it with characters, in strips where it is wider than the screen."""
    if not grid.cells:
        return []
    margin = max(map(len, grid.kinds)) + 4
    room = max(width - margin, 10)
    wide = max(min(room // max(len(grid.layers), 1), WIDEST), 1)
    text = [f"{TITLE}:"]
    for start in range(0, len(grid.layers), room // wide):
        layers = grid.layers[start : start + room // wide]
        text.append(f"{'layer':>{margin - 2}}  {ruler(layers, wide)}".rstrip())
        for name in grid.kinds:
            row = "".join(_cell(grid, name, layer, colour, wide) for layer in layers)
            text.append(f"  {name:<{margin - 4}}  {row}".rstrip())
    text.append(f"  {_legend(grid, colour)}")
    for name, size in grid.elsewhere.items():
        text.append(f"  {name}: {'unknown' if size is None else f'{size:.3g}'}")
    return text + [f"  … and {grid.left_out} more kinds or layers"] * bool(grid.left_out)


def ruler(layers: Sequence[int], wide: int) -> str:
    """Number the columns, every few of them."""
    step = 10 if wide == 1 else 5
    return "".join(str(layer)[: step * wide].ljust(step * wide) for layer in layers[::step])


def _cell(grid: Heat, name: str, layer: int, colour: bool, wide: int) -> str:
    if (name, layer) not in grid.cells:
        return ABSENT * wide
    size = grid.cells[name, layer]
    if size is None:
        return UNKNOWN * wide
    return _shade(level(size, grid.largest), colour, wide)


def level(size: float, largest: float, steps: int = len(SHADES)) -> int:
    """Give the step that a size is on: 0 for nothing at all, else 1 to `steps`."""
    return min(int(size / largest * steps) + 1, steps) if size > 0 else 0


def _shade(step: int, colour: bool, wide: int = 1) -> str:
    sign = (SHADES[step - 1] if step else NOTHING) * wide
    return click.style(sign, fg=COLOURS[step - 1]) if colour and step else sign


def _legend(grid: Heat, colour: bool) -> str:
    steps = [f"{_shade(i, colour)} to {grid.largest * i / len(SHADES):.3g}" for i in range(1, 5)]
    unknown = [f"{UNKNOWN} unknown"] * any(size is None for size in grid.cells.values())
    return "   ".join([f"{NOTHING} zero", *steps, *unknown])
