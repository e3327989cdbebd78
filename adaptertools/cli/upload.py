"""`adaptertools upload`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._progress import transfer
from adaptertools.cli._show import findings, show, size
from adaptertools.errors import shown
from adaptertools.report import Report


@click.command()
@click.argument("repo", metavar="REPO_ID")
@click.argument("folder", default=".")
@click.option("--private", is_flag=True, help="Make the repository private, where it is made.")
@click.option("--commit-message", metavar="TEXT", help="Default: what is uploaded.")
@click.option("--revision", help="The branch, made where there is none. Default: main.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead.")
@click.option("--delete-others", is_flag=True, help="Take away what is there and not in FOLDER.")
@click.option("--base", help="The base model on the Hub, where FOLDER names a path.")
@click.option("--include", multiple=True, metavar="GLOB",
              help="Send what matches too.")  # fmt: skip
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out what matches.")
@click.option("--no-validate", is_flag=True, help="Send it whatever validation would find.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--token", help="Instead of the one that `hf auth login` stored.")
@json_option
@quiet_option
def command(repo: str, folder: str, as_json: bool, quiet: bool, **how: Any) -> None:
    """Publish an adapter or a merged model: validated, with its card, in one commit."""
    told = partial(_announce, quiet or as_json)
    report = at.upload(
        folder, repo, announce=told, progress=transfer("uploading", quiet), **how
    )  # fmt: skip
    if as_json:
        return show(report, as_json=True)
    if report.facts["dry_run"] or (not report.facts["changed"] and not quiet):
        # Otherwise the plan was shown before it was carried out.
        return click.echo("\n".join(_plan(report)))
    return click.echo(_done(report, quiet)) if report.facts["changed"] else None


def _announce(quiet: bool, report: Report) -> None:
    """Show what will be sent before it is."""
    if not quiet and report.facts["changed"]:
        click.echo("\n".join(_plan(report)), err=True)


def _plan(report: Report) -> list[str]:
    facts = report.facts
    files = facts["files"]
    width = max((len(shown(file["name"])) for file in files), default=0)
    text = [_title(report.subject, facts)]
    for file in files:
        note = f"  {shown(file['note'])}" if file["note"] else ""
        text.append(
            f"  {file['change']:<8}  {shown(file['name']):<{width}}  {size(file['size']):>8}{note}"
        )
    text += [f"  delete    {shown(name)}" for name in facts["deleted"]]
    text += [f"  left out  {shown(x['name'])}: {shown(x['why'])}" for x in facts["left_out"]]
    text += [f"  skipped   {each}" for each in report.skipped]
    return text + findings(report.findings)


def _title(subject: str, facts: Mapping[str, Any]) -> str:
    what = f"{facts['kind']} of {shown(facts['base'])}" if facts["kind"] == "adapter" else (
        f"model made from {shown(facts['base'])}"
    )  # fmt: skip
    if not facts["changed"]:
        return f"{shown(subject)} holds this {what} already; nothing is sent."
    kind = "folder" if _store(subject) else "repository"
    made = f", a new {'private ' * facts['private']}{kind}" if facts["new"] else ""
    return f"{shown(subject)}{made}: {what}, {size(facts['bytes'])} to send"


def _done(report: Report, quiet: bool) -> str:
    facts = report.facts
    url = shown(facts["pr_url"] or facts["url"], 1000)
    if quiet:
        return url
    sent = sum(file["change"] != "same" for file in facts["files"])
    if not sent and not facts["deleted"]:
        return f"a new branch of what was there: {url}"
    how = "" if _store(report.subject) else "in one commit, "
    how = "in a pull request, " if facts["pr_url"] else how
    what = f"{sent} file{'s' * (sent != 1)}, {size(facts['bytes'])}"
    return f"{what}, {how}read back and found right: {url}"


def _store(subject: str) -> bool:
    return "://" in subject and not subject.startswith(("hf://", "https://"))
