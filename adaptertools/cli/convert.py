"""`adaptertools convert`."""

from __future__ import annotations

from collections.abc import Mapping
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
from adaptertools.verbs._convert_experts import PACKINGS, WAYS
from adaptertools.verbs.convert import formats
from adaptertools.verbs.open import readers


def _pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not sign for _, sign, _ in pairs):
        raise click.BadParameter("expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command()
@click.argument("thing", metavar="ADAPTER")
@click.option("--to", type=click.Choice(formats()), help="The format to write.")
@click.option("--target", help="Where it shall be served, which says the format: vllm, ollama ….")
@click.option("--out", required=True, help="What to write; it must not exist.")
@click.option("--from", "source", type=click.Choice(readers()), help="The format that it is in.")
@click.option("--base", help="The base, for names that cannot be told without it.")
@click.option("--rank", help="Pad to this rank; with --allow-lossy N, energy:0.99 or auto to keep.")
@click.option("--allow-lossy", is_flag=True, help="Of a method that is no LoRA, write the nearest.")
@click.option("--dtype", help="Of the factors; the stored one, unless a scale is folded in.")
@click.option("--drop-extras", is_flag=True, help="Leave out what the format cannot hold.")
@click.option("--dry-run", is_flag=True, help="Say how exact it would be, and write nothing.")
@click.option("--experts", type=click.Choice(WAYS), help="How experts are stored; takes --base.")
@click.option(
    "--expert-packing", type=click.Choice(PACKINGS), help="Columns of fused experts' lora_B."
)
@click.option(
    "-o", "--option", "options", multiple=True, callback=_pairs, metavar="NAME=VALUE",
    help="An option of one format only, such as arch of gguf.",
)  # fmt: skip
@json_option
@quiet_option
def command(thing: str, out: str, as_json: bool, quiet: bool, **how: Any) -> None:
    """Write an adapter in another format, without unpickling anything."""
    if not how["to"] and not how["target"]:
        raise click.UsageError(
            "Pass --to with a format, or --target with where it shall be served."
        )
    path = Path(thing)
    total = path.stat().st_size if path.is_file() else 0
    with ExitStack() as stack:
        report = at.convert(
            thing, out=out, progress=bar(stack, "converting", total, quiet),
            foreseen=None if as_json or quiet else _table, **how,
        )  # fmt: skip
    if as_json:
        show(report, as_json=True)
    elif not quiet:
        click.echo("\n".join([_line(report, out), *findings(report.findings)]))


def _table(lossy: Mapping[str, Any]) -> None:
    """Say how near the LoRA is, before it is written."""
    modules = lossy["modules"]
    wide = max(len(shown(m["target"], 60)) for m in modules)
    lines = [f"  {'module':<{wide}}  {'rank':>5}  {'‖ΔW‖':>9}  {'energy':>9}  {'off by':>9}"]
    lines += [
        f"  {shown(m['target'], 60):<{wide}}  {m['rank']:>5}  {m['norm']:>9.3g}  "
        f"{m['energy']:>9.3%}  {m['error']:>9.2g}"
        for m in modules
    ]
    lines.append(f"  {'in all':<{wide}}  {'':>5}  {'':>9}  {'':>9}  {lossy['error']:>9.2g}")
    click.echo("\n".join(lines))


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
    if lossy := facts.get("lossy"):
        lines[1] = f"  {facts['exactness']}: off by {lossy['error']:.2g} of the update in all"
    if target := facts.get("target"):
        looked = f"{len(target['checked'])} checks" if target["checked"] else "not checked"
        lines.append(f"  for {target['name']} {target['version']} ({looked})")
    lines += [
        f"  {key}  {len(facts[key])} modules"
        for key in ("folded", "padded")
        if facts[key]
    ]  # fmt: skip
    return "\n".join(lines)
