"""`adaptertools extract`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from statistics import median

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import bar
from adaptertools.cli._show import findings, show, size
from adaptertools.errors import shown
from adaptertools.report import Report

MOST = 20  # modules that are listed; --json has the rest


@click.command()
@click.argument("base")
@click.argument("finetuned")
@click.option("--out", required=True, help="The folder to write; it must not exist.")
@click.option(
    "--rank", default="auto", show_default=True,
    help="auto: all that rounding did not make; a number; energy:0.99; max.",
)  # fmt: skip
@click.option("--dtype", default="float32", show_default=True, help="Of the factors.")
@json_option
@quiet_option
def command(
    base: str, finetuned: str, out: str, rank: str, dtype: str, as_json: bool, quiet: bool
) -> None:
    """Take the adapter out of a fine-tuned model: its difference to BASE, as low rank."""
    path = Path(finetuned)
    total = sum(p.stat().st_size for p in path.glob("*.safetensors")) if path.is_dir() else 0
    with ExitStack() as stack:
        progress = bar(stack, "extracting", total, quiet)
        report = at.extract(base, finetuned, out=out, rank=rank, dtype=dtype, progress=progress)
    if as_json:
        show(report, as_json=True)
    elif not quiet:
        click.echo("\n".join(_lines(report, Path(out))))


def _lines(report: Report, out: Path) -> list[str]:
    facts = report.facts
    modules = facts["modules"]
    held = sum(p.stat().st_size for p in out.iterdir())
    text = [f"{shown(out)}: {len(modules)} weights as factors, {len(facts['saved'])} tensors saved "
            f"whole, {len(facts['biases'])} biases, {size(held)}"]  # fmt: skip
    if modules:
        errors, ranks = ([m[key] for m in modules] for key in ("error", "rank"))
        text.append(f"  rank      {min(ranks)} to {max(ranks)}, median {median(ranks):g}")
        text.append(f"  off by    {facts['error']:.2g} of the change, in all; {median(errors):.2g} "
                    f"(median) and {max(errors):.2g} at most of a weight's; no entry by more than "
                    f"{facts['worst']:.2g}")  # fmt: skip
        text += _worst(modules)
    if facts["unchanged"]:
        text.append(f"  same      {facts['unchanged']} tensors, left out")
    return [*text, *findings(report.findings)]


def _worst(modules: list[dict[str, object]]) -> list[str]:
    """List the modules that lose most."""
    ordered = sorted(modules, key=lambda m: -float(str(m["error"])))
    lines = [
        f"    {shown(m['target'], 60)}  rank {m['rank']}, ‖ΔW‖ {m['norm']:.3g}, "
        f"energy {m['energy']:.4%}, off by {m['error']:.2g}"
        for m in ordered[:MOST]
    ]
    more = len(ordered) - MOST
    return lines + [f"    … and {more} more; --json lists them"] * (more > 0)
