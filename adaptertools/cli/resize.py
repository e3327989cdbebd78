"""`adaptertools resize`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import bar
from adaptertools.cli._show import show, size
from adaptertools.cli._stacked import lines
from adaptertools.errors import shown


@click.command()
@click.argument("adapter")
@click.option("--rank", required=True, help="N, energy:0.99, budget:N, or auto (loses nothing).")
@click.option("--out", required=True, help="Folder to create.")
@click.option("--uniform-rank", is_flag=True, help="Pad all modules to one rank.")
@click.option("--dtype", help="float32 (default), bfloat16, float16, float64, or keep.")
@click.option("--base", help="The model, for VeRA, MiSS, fused experts; headers only are read.")
@click.option("--expert-packing", type=click.Choice(["peft", "expert-major"]),
              help="How lora_B holds fused experts, where its file does not say.")  # fmt: skip
@click.option(
    "--verify", is_flag=True, help="Prove each decomposition, read back what was written."
)
@click.option("--dry-run", is_flag=True, help="Show what would be lost and write nothing.")
@json_option
@quiet_option
def command(
    adapter: str, out: str, dry_run: bool, as_json: bool, quiet: bool, **how: Any
) -> None:  # fmt: skip
    """Give ADAPTER another rank, and say first what each module loses."""
    opened = at.open(adapter)
    aloud = not quiet and not as_json
    if dry_run or aloud:
        foreseen = at.resize(opened, out=out, dry_run=True, **how)
        if not aloud:
            return show(foreseen, as_json, quiet)
        click.echo("\n".join(lines(foreseen, every=True)))
        if dry_run:
            return None
    with ExitStack() as stack:
        report = at.resize(
            opened, out=out, progress=bar(stack, "resizing", opened.nbytes, quiet), **how
        )
    if as_json:
        return show(report, as_json=True)
    if aloud:
        click.echo(f"{shown(out)}: written, {size(report.facts['bytes'])}")
    return None
