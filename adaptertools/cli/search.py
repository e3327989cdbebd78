"""`adaptertools search`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option, token_option
from adaptertools.cli._show import lines, show
from adaptertools.errors import shown
from adaptertools.verbs.search import MOST, Found

SORTS = ("downloads", "likes", "created", "modified", "trending")
HEAD = ("adapter", "method", "downloads", "likes", "updated", "licence", "gated")


@click.command()
@click.option("--base", required=True, help="The base model on the Hub: user/repo.")
@click.option("--method", help="Only adapters of this method, and those that do not say theirs.")
@click.option("--sort", type=click.Choice(SORTS), default="downloads", show_default=True,
              help="What comes first: the most, or the latest.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, MOST), default=20, show_default=True,
              help="How many at most.")  # fmt: skip
@token_option
@json_option
@quiet_option
def command(
    base: str, method: str | None, sort: str, limit: int, token: str | None, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """List adapters of a base model on the Hub.

    Each one holds an adapter_config.json and names the base. With -q, one name on a line, as the
    other commands take them.
    """
    found = at.search(base, method=method, sort=sort, limit=limit, token=token)
    if quiet and not as_json:
        for hit in found:
            click.echo(shown(hit.ref))
        return
    show(found, as_json)
    if not as_json:
        for line in _left_out(found):
            click.echo(line, err=True)


@lines.register(Found)
def _(value: Found) -> list[str]:
    kind = f"{value.method or ''} adapter{'' if len(value) == 1 else 's'}".strip()
    if not value.hits:
        return [f"{shown(value.base)}: no {kind} found."]
    rows = [
        (shown(hit.ref), hit.method or "unknown", _number(hit.downloads), _number(hit.likes),
         hit.modified[:10] or "-", shown(hit.licence, 30) or "-", hit.gated or "no")
        for hit in value.hits
    ]  # fmt: skip
    text = [f"{shown(value.base)}: {len(rows)} {kind}, by {value.sort}", "", *_table(rows)]
    other = [hit for hit in value.hits if hit.base.lower() != value.base.lower()]
    text += [""] if other else []
    return text + [
        f"  {shown(hit.ref)}: its card names this base, its config {shown(hit.base)}."
        for hit in other
    ]


def _left_out(found: Found) -> list[str]:
    told = [f"{count} left out, which {shown(why)}." for why, count in found.left_out.items()]
    return told + ["There may be more; see --limit."] * found.more


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Set a table as wide as it is: names that are cut off can be given to no command."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in HEAD:
        side: Literal["left", "right"] = "right" if title in ("downloads", "likes") else "left"
        table.add_column(title, justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    page = io.StringIO()
    width = sum(max(len(row[i]) for row in (HEAD, *rows)) + 2 for i in range(len(HEAD)))
    Console(file=page, width=width, color_system=None, markup=False).print(table)
    return [f"  {line}".rstrip() for line in page.getvalue().splitlines()]
