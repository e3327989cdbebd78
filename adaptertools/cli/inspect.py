"""`adaptertools inspect`."""

from __future__ import annotations

import click

import adaptertools as at
from adaptertools.cli._options import json_option
from adaptertools.cli._show import show


@click.command()
@click.argument("adapter")
@json_option
def command(adapter: str, as_json: bool) -> None:
    """Say what an adapter is, from its config and header."""
    show(at.open(adapter), as_json)
