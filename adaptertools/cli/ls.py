"""`adaptertools ls`."""

from __future__ import annotations

import textwrap

import click

from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._show import lines, show
from adaptertools.verbs.ls import ROOMS, Listing, ls


@click.command()
@click.argument("room", type=click.Choice([*ROOMS]), metavar="ROOM")
@json_option
@quiet_option
def command(room: str, as_json: bool, quiet: bool) -> None:
    """List methods, formats, quants, checks or blends: what each is and can do.

    ROOM is one of those words. For methods: whether each can be merged, or why not and what to do
    instead; whether a plain LoRA can hold it; its paper. For formats: whether each is read and
    written, what it cannot hold, and which version of its owner's tool proved it. With -q, one name
    on a line.
    """
    found = ls(room)
    if quiet and not as_json:
        for entry in found.entries:
            click.echo(entry["name"])
        return
    show(found, as_json)


@lines.register(Listing)
def _(value: Listing) -> list[str]:
    wide = max(len(entry["name"]) for entry in value.entries)
    text = []
    for entry in value.entries:
        told = [entry["title"]] if entry["title"] else []
        if "merges" in entry:
            told += [f"merged: {'yes' if entry['merges'] else 'no: ' + entry['why']}"]
            told += [f"as LoRA: {entry['lora']}"] if entry["merges"] else []
        if "reads" in entry:
            told += [" and ".join(word for word in ("reads", "writes") if entry[word])]
            told += [f"cannot hold: {entry['lacks']}"] if entry["lacks"] else []
            told += [f"proved with: {entry['proved']}"]
        told += [entry["paper"]] if entry.get("paper") else []
        text += _set(entry["name"], told, wide)
    return text


def _set(name: str, told: list[str], wide: int) -> list[str]:
    """Set a name beside what there is to say of it, an item a line, 100 columns at most."""
    rows = [row for item in told for row in textwrap.wrap(item, 96 - wide, break_long_words=False)]
    heads = [name] + [""] * len(rows)
    return [f"  {head:<{wide}}  {row}".rstrip() for head, row in zip(heads, rows, strict=False)]
