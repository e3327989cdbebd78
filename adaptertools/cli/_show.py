"""How each thing that the library gives looks to a person, or as JSON."""

from __future__ import annotations

import json
from functools import singledispatch
from itertools import islice
from typing import Any

import click

from adaptertools.cli._retention import table
from adaptertools.errors import first, shown
from adaptertools.jobs import MergePlan
from adaptertools.report import Finding, Report
from adaptertools.rounding import Rounding


def show(value: object, as_json: bool = False, quiet: bool = False) -> None:
    """Print a value on stdout: JSON as schemas/ describe it, or words."""
    if as_json:
        made: Any = value
        pieces = json.JSONEncoder(indent=2).iterencode(made.as_json())
        while held := "".join(islice(pieces, 10_000)):  # never all of it at once
            click.echo(held, nl=False)
        click.echo()
    elif not quiet or not getattr(value, "ok", True):
        click.echo("\n".join(lines(value)))


def size(count: float) -> str:
    """Write a number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@singledispatch
def lines(value: object) -> list[str]:
    """Write a value in words; each type that is shown registers here."""
    raise TypeError(f"No way to show a {type(value).__name__}.")


@lines.register(MergePlan)
def _(value: MergePlan) -> list[str]:
    names = [f"{shown(a['ref'])} × {a['scale']:g}" for a in value.adapters]
    text = [f"{shown(value.base['ref'])} + {' + '.join(names)} -> {shown(value.out)}", ""]
    for job in value.jobs:
        changed = [edit for edit in job.edits if not edit.copied or edit.why]
        text.append(
            f"  {shown(job.file)}  {size(job.nbytes)}: {len(changed)} of {len(job.edits)} tensors "
            "change" + ("" if changed else ", copied whole")
        )
        text += [f"    {shown(e.name)}  {_how(e.describe())}" for e in changed[:3]]
        text += [f"    … and {len(changed) - 3} more"] if len(changed) > 3 else []
    if foreseen := table(value.foreseen):
        text += ["", "What packing will do to the update, from a few rows:", *foreseen]
    text += ["", f"  files     {first((f.name for f in value.files), 20)}"]
    return [*text, *findings(value.findings), f"  plan      {value.digest[:16]}"]


def _how(edit: dict[str, Any]) -> str:
    kinds = [
        f"{u['kind']} r={u['rank']} s={u['scale']:.4g}"
        if "scale" in u and "rank" in u
        else u["kind"]
        for u in edit["updates"]
    ]
    return ", ".join([shown(edit["why"])] * bool(edit["why"]) + kinds) or f"to {edit['dtype']}"


def findings(said: tuple[Finding, ...]) -> list[str]:
    """Write findings, a line each."""
    return [
        f"  {f.level:<8}  {f.code} {shown(f.place) + ': ' if f.place else ''}{shown(f.text, 1000)}"
        for f in said
    ]


@lines.register(Report)
def _(value: Report) -> list[str]:
    title = f"{shown(value.subject)}: {value.verb} {'done' if value.ok else 'FAILED'}"
    text = [title, *_FACTS[value.verb](dict(value.facts))]
    return [*text, *findings(value.findings)]


def _merged(facts: dict[str, Any]) -> list[str]:
    text = [f"  written   {size(facts['bytes'])} in {facts['shards']} shards, "
             f"{facts['edits']} tensors changed"]  # fmt: skip
    if norm := facts["update_norm"]:
        text.append(f"  update    {norm['median']:.2%} of the weight's norm (median), "
                     f"{norm['max']:.2%} at most")  # fmt: skip
        text.append(f"  rounding  off by {facts['max_error']:.3g} at most; in the worst tensor "
                     f"{facts['swallowed']:.1%} of the elements kept their value")  # fmt: skip
    text += table([Rounding.of(each) for each in facts["rounding"]])
    if "verified" in facts:
        text += _verified(facts["verified"])
    return text


def _verified(facts: dict[str, Any]) -> list[str]:
    if "files" in facts:
        return [f"  verified  {facts['files']} files, {size(facts['bytes'])}: {facts['changed']} "
                f"changed, {facts['missing']} missing, {facts['extra']} added"]  # fmt: skip
    return [f"  verified  {facts['equal']} tensors equal byte for byte or by one rounding, "
            f"{facts['probed']} by random probes, {facts['wrong']} wrong"]  # fmt: skip


_FACTS = {"merge": _merged, "verify": _verified}
