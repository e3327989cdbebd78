"""`adaptertools smoke`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click

import adaptertools as at
from adaptertools.cli._options import json_option, quiet_option
from adaptertools.cli._show import findings, lines, show, size
from adaptertools.errors import NotFound, Unreadable, shown
from adaptertools.verbs.smoke import Smoke

_VERDICTS = {
    "adapter": "follows the adapter", "base": "follows the BASE and not the adapter",
    "twice": "OVERDOES the adapter", "opposite": "does the OPPOSITE of the adapter",
    "part": "holds only a PART of the adapter",
    "neither": "follows NEITHER adapter nor base", "unseen": "the adapter changes nothing",
    "runs": "runs",
}  # fmt: skip


@click.command()
@click.argument("model_or_adapter")
@click.option("--adapter", "adapters", multiple=True,
              help="A further adapter; or a merged model's own, in order.")  # fmt: skip
@click.option("--base", help="Base model. Default: what the adapter or the receipt names.")
@click.option("--quant", type=click.Choice(["keep", "none", "4bit", "nf4", "fp4", "8bit", "int8"]),
              default="keep", show_default=True,
              help="How 16-bit models are loaded; keep does with the base as was done with the "
              "merged model.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto",
              show_default=True, help="Where to run.")  # fmt: skip
@click.option("--prompt", "prompts", multiple=True, help="What to go on with. Default: three.")
@click.option("--text", help="File with what to read. Default: twenty English sentences.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=32, show_default=True,
              help="How far to go on.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True,
              help="For the token ids that stand in for words.")  # fmt: skip
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, /, model_or_adapter: str, prompts: tuple[str, ...], text: str | None,
    as_json: bool, quiet: bool, **how: Any,
) -> None:  # fmt: skip
    """Run a model or an adapter, and show whom a merged model follows."""
    smoke = at.smoke(
        model_or_adapter,
        prompts=prompts or None,
        texts=_texts(text) if text is not None else None,
        progress=(lambda line: None) if quiet else (lambda line: click.echo(line, err=True)),
        **how,
    )
    show(smoke, as_json, quiet)
    ctx.exit(0 if smoke.ok else 1)


def _texts(file: str) -> list[str]:
    """Read a file, one text for each paragraph."""
    path = Path(file)
    if not path.is_file():
        raise NotFound(f"{shown(file)}: no such file. --text names a file with text to read.")
    try:
        parts = path.read_text("utf-8").split("\n\n")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{shown(file)} is not text in UTF-8: {shown(error)}.") from error
    texts = [part.strip() for part in parts if part.strip()]
    if not texts:
        raise Unreadable(f"{shown(file)} holds no text. Give a file with a paragraph at least.")
    return texts


@lines.register(Smoke)
def _(value: Smoke) -> list[str]:
    text = [f"{shown(value.subject)}: {_VERDICTS[value.verdict]}{_share(value)}", ""]
    head = ("", "loaded", "tokens/s", "memory", "perplexity")
    text += _table(head, [
        (row.name, row.loaded, f"{row.tokens_per_second:.4g}",
         size(row.peak_bytes) if row.peak_bytes is not None else "-", _number(row.perplexity))
        for row in value.rows
    ])  # fmt: skip
    head = ("", "KL", "same first choice", "largest difference", "distance")
    text += _table(head, [
        (f"{pair.one} to {pair.other}", _number(pair.kl),
         "-" if pair.top1 is None else f"{pair.top1:.1%}", _number(pair.largest),
         f"{pair.distance:.2%}")
        for pair in value.pairs
    ])  # fmt: skip
    for at_, prompt in enumerate(value.prompts):
        answers = [(f"  {row.name}", row.answers[at_]) for row in value.rows]
        text += [
            f"  {shown(prompt)}",
            *(f"  {name:<11} {shown(told)[:80]}" for name, told in answers),
        ]
    text += [""] * bool(value.prompts)
    for each in value.findings:
        text += [*findings((each,)), *[f"            {shown(each.hint)}"] * bool(each.hint)]
    return text


def _share(value: Smoke) -> str:
    if value.share is None or value.verdict == "unseen":
        return ""
    return (f": {value.share.value:.1%} ± {value.share.error:.1%} of its update arrived, which "
            f"moves the base by {value.share.effect:.2%}")  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Set a table; nothing where there are no rows."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for number, title in enumerate(head):
        table.add_column(title, justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    page = io.StringIO()
    Console(file=page, width=200, color_system=None, markup=False).print(table)
    set_ = [f"  {line}".rstrip() for line in page.getvalue().splitlines()]
    return [*set_, ""] if rows else []
