"""`adaptertools compare`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import click

import adaptertools as at
from adaptertools.cli import _cosines
from adaptertools.cli._cosines import letters
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import bar
from adaptertools.cli._show import findings, lines, show
from adaptertools.errors import shown
from adaptertools.update.signs import Share
from adaptertools.verbs._compare_parts import Comparison
from adaptertools.verbs.compare import SAMPLES

MOST = 40  # pairs that are listed; --json has the rest
HEAD = ("", "cosine", "reads alike", "writes alike", "energy of sum", "opposite signs", "apart")


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("--base", help="The model, for fused experts; only its headers are read.")
@click.option("--expert-packing", type=click.Choice(["peft", "expert-major"]),
              help="How lora_B holds fused experts, where its file does not say.")  # fmt: skip
@click.option("--samples", default=SAMPLES, help="Entries of each weight whose signs are compared.")
@click.option("--seed", default=0, help="Fixes which entries these are.")
@click.option("--plot", metavar="FILE", help="Draw the cosines to a .png, .svg or .html file.")
@json_option
@quiet_option
def command(
    adapters: tuple[str, ...], samples: int, seed: int, plot: str | None, base: str | None,
    expert_packing: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Say how ADAPTERS relate: how alike, where they cancel, which are the same."""
    if plot:
        from adaptertools.cli import _pictures

        _pictures.check(plot, pages=True)
    with ExitStack() as stack:
        opened = [at.open(each) for each in adapters]
        total = sum(each.nbytes for each in opened)
        progress = bar(stack, "comparing", total, quiet)
        found = at.compare(
            opened, base=base, expert_packing=expert_packing, samples=samples, seed=seed,
            progress=progress,
        )  # fmt: skip
    if plot:
        _cosines.picture(found, plot)
    show(found, as_json, quiet)


@lines.register(Comparison)
def _(value: Comparison) -> list[str]:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((100, 24)).columns
    return [*_sides(value), *_pairs(value), *_cosines.draw(value, width, colour),
            *findings(value.findings)]  # fmt: skip


def _sides(value: Comparison) -> Iterator[str]:
    for name, side in zip(letters(len(value.adapters)), value.adapters, strict=True):
        yield (f"{name}  {shown(side.ref)}: {shown(side.method)}, {side.modules} modules, "
               f"rank {side.rank}, ‖ΔW‖ {side.norm:.4g}")  # fmt: skip


def _pairs(value: Comparison) -> Iterator[str]:
    names = letters(len(value.adapters))
    rows: list[Sequence[str]] = [HEAD]
    for pair in value.pairs[:MOST]:
        rows.append((f"{names[pair.a]}, {names[pair.b]}", _number(pair.cosine, "+.4f"),
                     _number(pair.right, ".4f"), _number(pair.left, ".4f"),
                     _number(pair.energy, ".4f"), _share(pair.conflict),
                     f"{pair.distance:.3g}"))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield ""
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}"
    if len(value.pairs) > MOST:
        yield f"  … and {len(value.pairs) - MOST} more; --json lists them"
    if len(value.adapters) > 2:
        yield (f"  all: energy of the sum {_number(value.energy, '.4f')}, "
               f"any two of opposite signs {_share(value.conflict)}")  # fmt: skip
    yield ""


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _share(value: Share | None) -> str:
    if value is None:
        return "-"
    if value.exact:
        return f"{value.value:.2%} (exact)"
    return f"{value.value:.2%} ({value.low:.2%} to {value.high:.2%})"
