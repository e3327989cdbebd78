"""`adaptertools validate`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

import adaptertools as at
from adaptertools import hub
from adaptertools.cli import DONE, FAILED, USAGE
from adaptertools.cli._find import find
from adaptertools.cli._options import quiet_option, revision_option, token_option
from adaptertools.cli._settings import Settings, read
from adaptertools.cli.reports import FORMATS, LEVELS, NEVER, Page, load
from adaptertools.errors import AdapterToolsError, shown
from adaptertools.report import Report

STDOUT = "-"
Output = tuple[str, str]  # format and file


def _outputs(ctx: object, option: object, given: Sequence[str]) -> list[Output]:
    """Split FORMAT=FILE."""
    parts = [(name, file or STDOUT) for name, _, file in (each.partition("=") for each in given)]
    if odd := [name for name, _ in parts if name not in FORMATS]:
        raise click.BadParameter(f"{shown(odd[0])} is none of {', '.join(FORMATS)}.")
    return parts


def _codes(ctx: object, option: object, given: Sequence[str]) -> tuple[str, ...]:
    """Split at commas."""
    return tuple(code for each in given for code in each.split(",") if code)


def _severity(ctx: object, option: object, given: Sequence[str]) -> dict[str, str]:
    """Split CODE=LEVEL."""
    parts = [(code, level) for code, _, level in (each.partition("=") for each in given)]
    if odd := [f"{code}={level}" for code, level in parts if level not in LEVELS]:
        raise click.BadParameter(f"{shown(odd[0])}: CODE={'|'.join(LEVELS)} was expected.")
    return dict(parts)


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--base", help="Base model to hold shapes and vocabulary against.")
@click.option("--deep", is_flag=True, help="Read tensor data too: NaN, untrained, exploding.")
@click.option("--target", help="Where it shall be served: vllm, sglang, llama.cpp ….")
@click.option("--peft-version", help="The oldest PEFT that must be able to read it.")
@click.option(
    "--select", multiple=True, metavar="CODE|FAMILY", callback=_codes, help="Run these checks only."
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="CODE|FAMILY",
    callback=_codes,
    help="Leave these checks out.",
)
@click.option("--severity", multiple=True, metavar="CODE=LEVEL", callback=_severity,
              help="Make a check an error, a warning or a note.")  # fmt: skip
@click.option("--strict/--no-strict", default=None, help="Warnings about the config are errors.")
@click.option("--online", is_flag=True, help="Ask the Hub whether what is named there exists.")
@revision_option
@token_option
@click.option("--fail-on", type=click.Choice([*LEVELS, NEVER]),
              help="The mildest finding to exit with 1 for. Default: error.")  # fmt: skip
@click.option("--format", "outputs", multiple=True, metavar="FORMAT[=FILE]", callback=_outputs,
              help=f"How to say it: {', '.join(FORMATS)}; may be given often.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--isolated", is_flag=True, help="Read no settings from pyproject.toml.")
@click.option("-v", "--verbose", is_flag=True, help="List skipped checks, and every finding.")
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, /, paths: tuple[str, ...], outputs: list[Output], as_json: bool,
    isolated: bool, verbose: bool, quiet: bool, fail_on: str | None, **how: Any,
) -> None:  # fmt: skip
    """Say what is wrong with adapters: folders, trees of folders, repositories.

    Settings are read from [tool.adaptertools] in the nearest pyproject.toml; an option given here
    goes before the setting of its name. Exit code 0: nothing found at --fail-on or above, 1: found,
    2: asked wrongly, or something could not be read. Of a repository only config, card and what
    lists its tensors is fetched, unless --deep.
    """
    outputs = [*outputs, *[("json", STDOUT)] * as_json] or [("text", STDOUT)]
    _check(outputs)
    settings = Settings() if isolated else read(Path.cwd())
    if settings.file and not quiet:
        click.echo(f"Settings of {shown(settings.file)}: {settings}.", err=True)
    page = _page(fail_on or settings.fail_on or "error", verbose, quiet)
    run = _Run(paths, _how(settings, how), page)
    try:
        # One output is written as the reports come, several take them in turn.
        reports = run if len(outputs) == 1 else list(run)
        for name, file in outputs:
            _write(name, file, reports, page)
    except AdapterToolsError as error:
        said = "\n".join([str(error), *getattr(error, "__notes__", ())])
        raise click.ClickException(said) from error
    ctx.exit(run.code)


def _check(outputs: Sequence[Output]) -> None:
    """Refuse two outputs in one place, and files that cannot be written, before any work."""
    files = [file for _, file in outputs]
    if double := [file for file in files if files.count(file) > 1]:
        where = "stdout" if double[0] == STDOUT else shown(double[0])
        raise click.UsageError(f"Two formats would go to {where}. Say FORMAT=FILE for one of them.")
    for file in files:
        if file != STDOUT and not Path(file).absolute().parent.is_dir():
            raise click.UsageError(f"{shown(file)}: there is no such folder to write to.")


def _page(fail_on: str, verbose: bool, quiet: bool) -> Page:
    told = os.environ
    plain = bool(told.get("NO_COLOR")) or told.get("TERM") == "dumb"
    summary = told.get("GITHUB_STEP_SUMMARY")
    return Page(
        workspace=Path(os.path.abspath(told.get("GITHUB_WORKSPACE") or ".")),
        summary=Path(summary) if summary else None,
        colour=sys.stdout.isatty() and not plain,
        fail_on=fail_on, verbose=verbose, quiet=quiet,
    )  # fmt: skip


def _how(settings: Settings, how: Mapping[str, Any]) -> dict[str, Any]:
    """Put the settings in for options that were not given."""
    said = {name: how[name] or getattr(settings, name) for name in ("select", "ignore", "target")}
    said["severity"] = {**settings.severity, **how["severity"]}
    said["strict"] = settings.strict if how["strict"] is None else how["strict"]
    said["online"] = hub.standing if how["online"] else None
    return {**how, **said}


@dataclass(slots=True)
class _Run:
    """Validates one adapter after the other, and remembers what to exit with."""

    paths: Sequence[str]
    how: Mapping[str, Any]
    page: Page
    code: int = DONE

    def __iter__(self) -> Iterator[Report]:
        asked = False
        for thing in find(self.paths, self.failed):
            try:
                report = at.validate(thing, **self.how)
            except AdapterToolsError as error:
                # What is wrong with the first, such as an unknown code, is wrong with all.
                if not asked:
                    raise
                self.failed(error)
            except OSError as error:
                self.failed(error)
            else:
                if any(map(self.page.fails, report.findings)):
                    self.code = max(self.code, FAILED)
                yield report
            if not asked:
                # What is loaded by now stays; the collector looking through it again and again
                # would take more time than the checks.
                gc.freeze()
            asked = True

    def failed(self, error: Exception) -> None:
        """Say what could not be looked at; it is neither clean nor found at fault."""
        where = getattr(error, "filename", None)
        said = (
            f"{shown(where)}: {getattr(error, 'strerror', error)}." if where else shown(error, 1000)
        )
        click.echo(f"error: {said}", err=True)
        self.code = USAGE


def _write(name: str, file: str, reports: Iterable[Report], page: Page) -> None:
    """Set the reports in one format, to stdout or to a file."""
    try:
        if file == STDOUT:
            for piece in load(name).render(reports, page):
                click.echo(piece, nl=False)
        else:
            text = "".join(load(name).render(reports, replace(page, colour=False)))
            Path(file).write_text(text, "utf-8", newline="\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.ClickException(f"{shown(error.filename)}: {error.strerror}.") from error
