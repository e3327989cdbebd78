"""`adaptertools verify`."""

from __future__ import annotations

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._show import show


@click.command()
@click.argument("folder")
@click.option("--base", help="Where the base is now, if no longer where the receipt says.")
@click.option("--adapter", "adapters", multiple=True, help="Where each adapter is now, in order.")
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, folder: str, base: str | None, adapters: tuple[str, ...], as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Check a folder against its receipt: merged, stacked, converted or downloaded."""
    report = at.verify(folder, base=base, adapters=adapters or None)
    show(report, as_json, quiet)
    ctx.exit(0 if report.ok else 1)
