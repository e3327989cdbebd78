"""`adaptertools demo`."""

from __future__ import annotations

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._show import findings, lines, show, size
from adaptertools.errors import shown
from adaptertools.verbs.demo import Demo


@click.command()
@click.option("--keep", "folder", help="Folder to make everything in, and to keep.")
@click.option("--seed", type=int, default=0, show_default=True, help="For weights and training.")
@json_option
@quiet_option
def command(folder: str | None, seed: int, as_json: bool, quiet: bool) -> None:
    """Make, train, merge, verify and ask a tiny model, offline, in under a minute."""
    say = (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))
    show(at.demo(folder, seed=seed, progress=say), as_json)


@lines.register(Demo)
def _(value: Demo) -> list[str]:
    adapter, merged, checked = value.inspected, value.report.facts, value.verification.facts
    text = [
        f"adapter   {adapter.method} r={adapter.rank} on {len(adapter.entries)} modules, "
        f"{size(adapter.nbytes)}",
        f"merged    {merged['edits']} tensors in {merged['shards']} shards, update "
        f"{merged['update_norm']['median']:.1%} of the weight's norm, off by at most "
        f"{merged['max_error']:.2g} from rounding",
        f"verified  {checked['equal']} tensors equal, {checked['probed']} probed, "
        f"{checked['wrong']} wrong",
        *findings(value.report.findings),
        "",
    ]
    rows = [("prompt", "base", "adapter (PEFT)", "merged")]
    rows += [(a.prompt, a.base, a.adapter, a.merged) for a in value.prompts]
    widths = [max(len(shown(row[i])[:44]) for row in rows) for i in range(4)]
    for row in rows:
        cells = (shown(cell)[:44].ljust(width) for cell, width in zip(row, widths, strict=True))
        text.append("  ".join(cells).rstrip())
    street = sum(value.seconds[step] for step in ("inspect", "plan", "merge", "verify"))
    text += [
        "",
        f"largest logit difference, adapter beside merged: {value.logit_gap:.2g} (the base is "
        "stored in bfloat16)",
        f"making and training {sum(value.seconds.values()) - street:.0f} s; inspect, plan, merge "
        f"and verify {street:.2f} s",
        "",
        *_packed(value),
    ]
    return text


def _packed(value: Demo) -> list[str]:
    """Say what became of the adapter in 4 bit."""
    text = ["The same into a base in 4 bit, its scales kept:"]
    text += [f"  {shown(f.text, 1000)}" for f in value.packed.findings if f.code == "MRG045"]
    if value.smoke is None:
        return [*text, "  smoke is left out: bitsandbytes is not installed."]
    rows = zip(value.smoke.prompts, *(row.answers for row in value.smoke.rows), strict=True)
    names = [row.name for row in value.smoke.rows]
    for prompt, *answers in rows:
        text.append(f"  {shown(prompt)}")
        text += [f"    {n:<8}  {shown(a)}" for n, a in zip(names, answers, strict=True)]
    said = "follows the adapter" if value.smoke.ok else "does NOT follow the adapter"
    return [*text, f"  smoke: the merged 4-bit model {said}."]
