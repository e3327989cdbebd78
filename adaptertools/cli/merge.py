"""`adaptertools merge`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

import adaptertools as at
from adaptertools.cli import _pictures as pictures
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import bar
from adaptertools.cli._show import show
from adaptertools.rounding import Rounding

PARENTS = ["as-stored", "original"]
TARGETS = ["keep", "none", "4bit", "nf4", "fp4", "8bit", "int8"]


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("--base", help="Base model: folder or repository. Default: what the adapter names.")
@click.option("--out", required=True, help="Folder to create.")
@click.option("--scale", type=float, multiple=True, help="Times each ADAPTER's update, in order.")
@click.option("--dtype", help="Stored dtype: float32, bfloat16, float16. Default: the base's.")
@click.option("--quant", type=click.Choice(TARGETS), default="keep", show_default=True,
              help="How the output is packed; none is 16 bit, keep as the base is.")  # fmt: skip
@click.option("--rounding", type=click.Choice(["adapter", "stochastic", "nearest", "search"]),
              help="Onto the grid. Default: adapter on a packed base, else nearest.")  # fmt: skip
@click.option("--double-quant/--no-double-quant", default=None, help="4 bit: pack the scales too.")
@click.option("--block-size", type=int, help="4 bit: weights per scale. Default: 64.")
@click.option("--seed", type=int, default=0, show_default=True, help="For stochastic rounding.")
@click.option("--min-retention", type=float,
              help="Leave modules in 16 bit that would keep less of their update.")  # fmt: skip
@click.option("--force", is_flag=True, help="Round to nearest even where the adapter is lost.")
@click.option("--base-weights", type=click.Choice(PARENTS), default="as-stored",
              show_default=True, help="What a packed base holds, or its parent.")  # fmt: skip
@click.option("--original", help="That parent, where the base's name does not tell.")
@click.option("--max-shard-size", help="Such as 5GB. Default: the base's own shards.")
@click.option("--tied", type=click.Choice(["untie", "keep"]), default="untie", show_default=True,
              help="Tied embeddings, one adapted: write both, or do as PEFT.")  # fmt: skip
@click.option("--mha-out-proj", type=click.Choice(["once", "twice"]),
              help="How often MultiheadAttention's out_proj update counts.")  # fmt: skip
@click.option("--expert-packing", type=click.Choice(["peft", "expert-major"]),
              help="How lora_B holds fused experts, where its file does not say.")  # fmt: skip
@click.option(
    "--max-workers", type=click.IntRange(1), help="Threads. Default: processors, up to 8."
)
@click.option("--resume", is_flag=True, help="Go on with OUT.partial.")
@click.option("--verify", is_flag=True, help="Check what was written before it gets its name.")
@click.option("--allow-nonfinite", is_flag=True, help="Merge NaN and infinity too.")
@click.option("--plot", help="Draw what became of the update in a packed model, to this file.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@json_option
@quiet_option
def command(
    adapters: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool, max_workers: int | None,
    resume: bool, verify: bool, scale: tuple[float, ...], plot: str | None, **how: Any,
) -> None:  # fmt: skip
    """Merge ADAPTERS into their base model, shard by shard."""
    plan = at.plan(adapters, scale=scale or None, **how)
    if plot:
        pictures.check(plot)
        pictures.retention(plan.foreseen, plot)  # drawn again with what was measured in the run
    if dry_run:
        return show(plan, as_json)
    with ExitStack() as stack:
        report = at.merge(
            plan, max_workers=max_workers, resume=resume, verify=verify,
            progress=bar(stack, "merging", plan.nbytes, quiet),
        )  # fmt: skip
    if plot:
        pictures.retention([Rounding.of(each) for each in report.facts["rounding"]], plot)
    return show(report, as_json, quiet)
