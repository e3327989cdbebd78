"""`adaptertools stack`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import bar
from adaptertools.cli._show import show
from adaptertools.cli._stacked import lines
from adaptertools.verbs._stack_ask import LARGEST, hows, tools, weighed


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER[=WEIGHT]...")
@click.option("--out", required=True, help="Folder to create.")
@click.option("--how", type=click.Choice(hows()), default="sum", show_default=True,
              help="How updates become one; sum is exact.")  # fmt: skip
@click.option("--emulate", type=click.Choice(tools()),
              help="Instead: the numbers of another tool, faults and all.")  # fmt: skip
@click.option("--rank", default="auto", show_default=True,
              help="auto (loses nothing), max, N, energy:0.99, budget:N.")  # fmt: skip
@click.option("--max-rank", type=int, default=LARGEST, show_default=True,
              help="More than this is refused.")  # fmt: skip
@click.option("--allow-lossy", is_flag=True, help="Cut to --max-rank instead.")
@click.option("--uniform-rank", is_flag=True, help="Pad all modules to one rank.")
@click.option("--weight", multiple=True, metavar="[ADAPTER@]PATTERN=W",
              help="Of some modules: C@*.layers.{0-15}.*=0; the last match wins.")  # fmt: skip
@click.option("--dtype", help="float32 (default), bfloat16, float16, float64, or keep.")
@click.option("--base-check", type=click.Choice(["strict", "warn", "off"]), default="strict",
              show_default=True, help="Where the adapters' bases seem to differ.")  # fmt: skip
@click.option("--modules-to-save", default="error", metavar="from=ADAPTER|mean",
              help="Where tensors are saved whole by several.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of methods with chance.")
@click.option("--density", type=float, help="Share of entries that ties, dare and kin keep.")
@click.option("--epsilon", type=float, help="della: how far its odds are from --density.")
@click.option("--gamma", type=float, help="breadcrumbs: share of the largest entries that goes.")
@click.option("--common", type=float, help="iso-cts: share of directions common to all.")
@click.option("--base", help="The model, for VeRA, MiSS, fused experts; headers only are read.")
@click.option("--expert-packing", type=click.Choice(["peft", "expert-major"]),
              help="How lora_B holds fused experts, where its file does not say.")  # fmt: skip
@click.option(
    "--verify", is_flag=True, help="Prove each decomposition, read back what was written."
)
@click.option("--dry-run", is_flag=True, help="Compute everything and write nothing.")
@json_option
@quiet_option
def command(adapters: tuple[str, ...], as_json: bool, quiet: bool, **how: Any) -> None:
    """Stack ADAPTERS into one, exactly, without their base.

    WEIGHT multiplies the adapter's update; without one it is 1. A single adapter with a weight is
    scaled, or negated: `adaptertools stack A=-1 --out NEGATED`.
    """
    pairs = [weighed(text) for text in adapters]
    opened = [at.open(ref) for ref, _ in pairs]
    with ExitStack() as stack:
        report = at.stack(
            opened, weights=[weight for _, weight in pairs],
            progress=bar(stack, "stacking", sum(each.nbytes for each in opened), quiet), **how,
        )  # fmt: skip
    if as_json:
        return show(report, as_json=True)
    if not quiet or not report.ok:
        click.echo("\n".join(lines(report)))
    return None
