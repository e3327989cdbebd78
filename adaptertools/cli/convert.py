"""`adaptertools convert`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import bar
from adaptertools.cli._show import findings, show, size
from adaptertools.errors import shown
from adaptertools.verbs.convert import FORMATS


@click.command()
@click.argument("thing", metavar="PICKLE_OR_FOLDER")
@click.option("--to", type=click.Choice(FORMATS), required=True, help="The format to write.")
@click.option("--out", required=True, help="The folder to write; it must not exist.")
@json_option
@quiet_option
def command(thing: str, to: str, out: str, as_json: bool, quiet: bool) -> None:
    """Write an adapter in another format, without unpickling anything."""
    path = Path(thing)
    total = path.stat().st_size if path.is_file() else 0
    with ExitStack() as stack:
        report = at.convert(
            thing, to=to, out=out, progress=bar(stack, "converting", total, quiet)
        )  # fmt: skip
    if as_json:
        return show(report, as_json=True)
    if not quiet:
        facts = report.facts
        click.echo(
            f"{shown(out)}: {facts['tensors']} tensors, {size(facts['bytes'])}, "
            f"with {', '.join(map(shown, facts['copied']))}"
        )
        for line in findings(report.findings):
            click.echo(line)
    return None
