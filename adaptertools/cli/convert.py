"""`adaptertools convert`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import bar
from adaptertools.cli._show import findings, show, size
from adaptertools.errors import shown
from adaptertools.report import Report
from adaptertools.verbs.convert import formats
from adaptertools.verbs.open import readers


def _pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not sign for _, sign, _ in pairs):
        raise click.BadParameter("expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command()
@click.argument("thing", metavar="ADAPTER")
@click.option("--to", type=click.Choice(formats()), required=True, help="The format to write.")
@click.option("--out", required=True, help="What to write; it must not exist.")
@click.option("--from", "source", type=click.Choice(readers()), help="The format that it is in.")
@click.option("--base", help="The base, for names that cannot be told without it.")
@click.option("--rank", type=click.IntRange(1), help="Pad all modules to this rank.")
@click.option("--dtype", help="Of the factors; the stored one, unless a scale is folded in.")
@click.option("--drop-extras", is_flag=True, help="Leave out what the format cannot hold.")
@click.option("--dry-run", is_flag=True, help="Say how exact it would be, and write nothing.")
@click.option(
    "-o", "--option", "options", multiple=True, callback=_pairs, metavar="NAME=VALUE",
    help="An option of one format only, such as arch of gguf.",
)  # fmt: skip
@json_option
@quiet_option
def command(thing: str, out: str, as_json: bool, quiet: bool, **how: Any) -> None:
    """Write an adapter in another format, without unpickling anything."""
    path = Path(thing)
    total = path.stat().st_size if path.is_file() else 0
    with ExitStack() as stack:
        report = at.convert(
            thing, out=out, progress=bar(stack, "converting", total, quiet), **how
        )  # fmt: skip
    if as_json:
        show(report, as_json=True)
    elif not quiet:
        click.echo("\n".join([_line(report, out), *findings(report.findings)]))


def _line(report: Report, out: str) -> str:
    facts = report.facts
    text = f"{shown(out)}: {facts['tensors']} tensors, {size(facts['bytes'])}"
    if facts["copied"]:
        text += f", with {', '.join(map(shown, facts['copied']))}"
    if facts["dry_run"]:
        text += "; nothing was written"
    if "error" not in facts:  # a pickle, bit for bit
        return text
    lines = [text, f"  {facts['exactness']}" + (
        f": no tensor off by more than {facts['error']:.1g} of its norm" if facts["error"] else ""
    )]  # fmt: skip
    lines += [
        f"  {key}  {len(facts[key])} modules"
        for key in ("folded", "padded")
        if facts[key]
    ]  # fmt: skip
    return "\n".join(lines)
