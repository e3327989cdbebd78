"""`adaptertools demo`."""

from __future__ import annotations

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._show import show


@click.command()
@click.option("--keep", "folder", help="Folder to make everything in, and to keep.")
@click.option("--seed", type=int, default=0, show_default=True, help="For weights and training.")
@json_option
@quiet_option
def command(folder: str | None, seed: int, as_json: bool, quiet: bool) -> None:
    """Make, train, merge, verify and ask a tiny model, offline, in under a minute."""
    say = (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))
    show(at.demo(folder, seed=seed, progress=say), as_json)
