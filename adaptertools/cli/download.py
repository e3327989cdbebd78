"""`adaptertools download`."""

from __future__ import annotations

from typing import Any

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import transfer
from adaptertools.cli._show import findings, show, size
from adaptertools.errors import shown
from adaptertools.report import Report

_COMMIT = 12  # letters of a commit that people read


@click.command()
@click.argument("thing", metavar="REPO_ID")
@click.option("--local-dir", help="The folder to put it in. Default: the Hub's cache.")
@click.option("--revision", help="Branch, tag, commit, or refs/pr/N.")
@click.option("--include", multiple=True, metavar="GLOB",
              help="Fetch what matches, instead of what an adapter needs.")  # fmt: skip
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out what matches.")
@click.option("--force", is_flag=True, help="Overwrite files in the folder that were edited.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and fetch nothing.")
@click.option("--token", help="Instead of the one that `hf auth login` stored.")
@json_option
@quiet_option
def command(thing: str, as_json: bool, quiet: bool, **how: Any) -> None:
    """Fetch an adapter, every file of it verified: what it needs, and nothing else."""
    report = at.download(thing, progress=transfer("downloading", quiet), **how)
    if as_json:
        return show(report, as_json=True)
    if quiet:
        return click.echo(report.facts["folder"])
    return click.echo("\n".join(_lines(report)))


def _lines(report: Report) -> list[str]:
    facts = report.facts
    count, sound = len(facts["files"]), sum(file["verified"] for file in facts["files"])
    done = "verified" if sound == count else f"{sound} of them verified"
    text = [
        f"{shown(facts['repo'])} at {shown(facts['commit'])[:_COMMIT]}: {count} files, "
        f"{size(facts['bytes'])}, {'not fetched' if facts['dry_run'] else done}"
    ]
    width = max((len(shown(file["name"])) for file in facts["files"]), default=0)
    for file in facts["files"]:
        length = "?" if file["size"] is None else size(file["size"])
        text.append(f"  {shown(file['name']):<{width}}  {length:>8}  {file['how']}")
    text += [f"  removed   {shown(name)}: of the older commit" for name in facts["removed"]]
    text += [f"  left out  {shown(x['name'])}: {shown(x['why'])}" for x in facts["left_out"]]
    text += findings(report.findings)
    return [*text, f"  folder    {shown(facts['folder'], 1000)}"] if facts["folder"] else text
