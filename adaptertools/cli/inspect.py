"""`adaptertools inspect`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median

import click

import adaptertools as at
from adaptertools import targets
from adaptertools.cli import _heat
from adaptertools.cli._options import json_option, quiet_option, revision_option, token_option
from adaptertools.cli._progress import bar
from adaptertools.cli._remote import repository
from adaptertools.cli._show import lines, show, size
from adaptertools.dialect import NAMES
from adaptertools.errors import shown
from adaptertools.verbs.inspect import Inspection

MOST = 40  # lines of one list or table; --json has the rest
TOP = 5
HEAD = ("modules", "", "weight", "rank", "alpha", "scale", "parameters")
DEEP = ("‖ΔW‖", "spectral", "eff. rank", "zeros in B")


@click.command()
@click.argument("adapter")
@click.option("--base", help="Base model: name the tensors of it that a merge would change.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--deep", is_flag=True, help="Read the tensors: size and rank of each change.")
@click.option("--plot", metavar="FILE", help="Draw those sizes to a .png, .svg or .html file.")
@revision_option
@token_option
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, adapter: str, base: str | None, tensors: bool, deep: bool,
    plot: str | None, revision: str | None, token: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Say what an adapter is, from its config and header.

    Of a repository no more than these is fetched, unless --deep.
    """
    if plot:
        from adaptertools.cli import _pictures as pictures

        pictures.check(plot, pages=True)
    with ExitStack() as stack:
        look = partial(at.inspect, adapter, revision=revision, token=token)
        found = look(
            base=base, tensors=tensors, deep=deep or bool(plot),
            progress=_progress(stack, look, quiet) if deep or plot else None,
        )  # fmt: skip
    if plot:
        pictures.heat(found, plot)
    show(found, as_json, quiet)
    ctx.exit(0 if found.ok else 1)


def _progress(
    stack: ExitStack, look: Callable[[], Inspection], quiet: bool
) -> Callable[[int], object] | None:
    """Show a bar to somebody who waits at a screen."""
    if quiet or not sys.stderr.isatty():
        return None
    weights = look().weights
    return bar(stack, "measuring", weights.bytes if weights else 0, quiet)


@lines.register(Inspection)
def _(value: Inspection) -> list[str]:
    return [*_facts(value), *_modules(value), *_beside(value), *_merge(value), *_notes(value),
            *_deep(value), *_tensors(value)]  # fmt: skip


def _facts(value: Inspection) -> Iterator[str]:
    name = ", ".join([shown(value.method or "method unknown"), *value.variants])
    yield f"{shown(value.ref)}: {name}; format: {NAMES.get(value.dialect, shown(value.dialect))}"
    yield from repository(value.remote)
    revision = f" at {shown(value.revision)}" if value.revision else ""
    yield f"  base      {shown(value.base or 'not named')}{revision}"
    if value.task:
        yield f"  task      {shown(value.task)}"
    if value.rank:
        scale = f", scale {_span(value.scale)}" if value.scale else ""
        yield f"  rank      {_span(value.rank)}, alpha {_span(value.alpha)}{scale}"
    if (held := value.weights) and not value.fault:
        dtypes = ", ".join(f"{name} in {count}" for name, count in held.dtypes.items())
        yield (f"  weights   {shown(held.file)}: {_count(held.parameters)} parameters in "
               f"{held.tensors} tensors, {size(held.bytes)}; {dtypes}")  # fmt: skip
    if value.fault:
        yield f"  UNREADABLE  {shown(value.fault, 1000)}"
    oldest = f"{value.peft_at_least} or later, by its keys" if value.peft_at_least else ""
    written = f"written by {shown(value.peft_version)}" if value.peft_version else ""
    if oldest or written:
        yield f"  PEFT      {'; '.join(filter(None, (oldest, written)))}"


def _modules(value: Inspection) -> Iterator[str]:
    yield from _listing("targets", value.targets)
    if not value.kinds:
        return
    norms = value.norms or ()
    rows: list[Sequence[str]] = [(*HEAD, *DEEP) if norms else HEAD]
    for kind in value.kinds[:MOST]:
        shapes = ["×".join(map(str, shape)) for shape in kind.weights]
        row = (shown(kind.name, 60), str(kind.modules), _few(shapes), _span(kind.rank),
               _span(kind.alpha), _span(kind.scale), _count(kind.parameters))  # fmt: skip
        own = [norm for norm in norms if targets.kind(norm.target) == kind.name]
        medians = (_median(getattr(n, key) for n in own)
                   for key in ("norm", "spectral", "effective_rank", "zeros"))  # fmt: skip
        rows.append((*row, *medians) if norms else row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for each in rows:
        first, *rest = (cell.rjust(width) for cell, width in zip(each, widths, strict=True))
        yield "  ".join(["", each[0].ljust(len(first)), *rest]).rstrip()
    yield from _more(len(value.kinds))
    if norms:
        yield "  (sizes and ranks are medians over the modules of a kind)"


def _beside(value: Inspection) -> Iterator[str]:
    yield from _listing("saved", value.saved)
    if value.biases:
        yield f"  biases    {value.biases} of the base's, trained along"
    for name, count in list(value.token_rows.items())[:MOST]:
        yield f"  tokens    {count} rows of {shown(name)}"
    yield from _listing("tensors" if not value.modules else "others", value.others)


def _merge(value: Inspection) -> Iterator[str]:
    merge = value.merge
    if not merge.possible:
        yield f"  merge     no: {shown(merge.why, 1000)}"
    elif merge.base is None:
        whole = f" and replaces or adds {_listed(value.saved)}" if value.saved else ""
        count = value.modules + len(value.token_rows)
        yield f"  merge     changes {count} weights{whole}; pass --base to see which"
    else:
        whole = f"{merge.changed} of the {merge.tensors} tensors of {shown(merge.base)}"
        yield f"  merge     changes {whole}"
        yield from _listing("", merge.changes)


def _notes(value: Inspection) -> Iterator[str]:
    for note in value.notes:
        yield f"  note      {shown(note, 1000)}"


def _deep(value: Inspection) -> Iterator[str]:
    known = [norm for norm in value.norms or () if norm.norm is not None]
    if not known:
        return
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((100, 24)).columns
    yield ""
    yield from _heat.draw(_heat.heat(value.norms or ()), width, colour)
    yield "Largest:"
    for norm in sorted(known, key=lambda norm: -(norm.norm or 0))[:TOP]:
        ranks = f"effective rank {norm.effective_rank:.1f}, stable rank {norm.stable_rank:.1f}"
        yield f"  {shown(norm.name)}  {norm.norm:.3g}, spectral {norm.spectral:.3g}, {ranks}"


def _tensors(value: Inspection) -> Iterator[str]:
    for each in value.tensors or ():
        shape = "×".join(map(str, each.shape)) or "scalar"
        facts = f"{each.dtype} {shape}  {size(each.bytes)}  {each.role}"
        yield f"  {shown(each.name)}  {facts}".rstrip()


def _listing(title: str, names: Sequence[str]) -> Iterator[str]:
    """Give a line for each name, under one title."""
    for at_line, name in enumerate(names[:MOST]):
        yield f"  {title if not at_line else '':<8}  {shown(name, 400)}"
    yield from _more(len(names))


def _more(count: int) -> Iterator[str]:
    if count > MOST:
        yield f"            … and {count - MOST} more; --json lists them"


def _span(values: Sequence[float]) -> str:
    """Write the values that occur: all of a few, the ends of many."""
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts) if len(texts) < 4 else f"{texts[0]} to {texts[-1]}"


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:2]) + " …" * (len(texts) > 2)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shown(name, 100) for name in names[:3]) + " …" * (len(names) > 3)


def _median(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.3g}" if known else "-"


def _count(number: float) -> str:
    """Write a number of parameters as people say it."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}B"
