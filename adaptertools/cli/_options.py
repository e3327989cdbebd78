"""Options that every command spells the same."""

from __future__ import annotations

import click

from adaptertools.cli._progress import transfer


def _watch(ctx: click.Context, param: click.Parameter, quiet: bool) -> bool:
    """Let transfers be seen that a command starts in the middle of its work."""
    from adaptertools.hub import fetch

    fetch.announce(transfer("downloading", quiet))
    return quiet


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as schemas/ say.")
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Only what was asked for.", callback=_watch
)
revision_option = click.option("--revision", help="Branch, tag, commit, or refs/pr/N.")
token_option = click.option("--token", help="Instead of the one that `hf auth login` stored.")
