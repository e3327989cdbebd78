"""What did the user say, what do they see? One file per command; no decisions are taken here."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

import click

from adaptertools.errors import AdapterToolsError, shown
from adaptertools.version import VERSION

# Command -> its line in --help. Static, so that help imports no command; a test compares them.
COMMANDS = {
    "compare": "Say how ADAPTERS relate: how alike, where they cancel, which are the same.",
    "convert": "Write an adapter in another format, without unpickling anything.",
    "demo": "Make, train, merge, verify and ask a tiny model, offline, in under a minute.",
    "download": "Fetch an adapter, every file of it verified: what it needs, and nothing else.",
    "extract": "Take the adapter out of a fine-tuned model: its difference to BASE, as low rank.",
    "inspect": "Say what an adapter is, from its config and header.",
    "ls": "List methods, formats, quants, checks or blends: what each is and can do.",
    "merge": "Merge ADAPTERS into their base model, shard by shard.",
    "resize": "Give ADAPTER another rank, and say first what each module loses.",
    "search": "List adapters of a base model on the Hub.",
    "smoke": "Run a model or an adapter, and show whom a merged model follows.",
    "stack": "Stack ADAPTERS into one, exactly, without their base.",
    "upload": "Publish an adapter or a merged model: validated, with its card, in one commit.",
    "validate": "Say what is wrong with adapters: folders, trees of folders, repositories.",
    "verify": "Check a folder against its receipt: merged, stacked, converted or downloaded.",
}

DONE, FAILED, USAGE, BUG, INTERRUPTED = 0, 1, 2, 3, 130


class _Lazy(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"adaptertools.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="adaptertools")
def app() -> None:
    """What happens to an adapter after training: inspect, merge, verify. On files, exactly."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 a known error, 2 usage, 3 a bug, 130 interrupted."""
    # What goes wrong is said once, by us; huggingface_hub would log each try with its address.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    sys.exit(_guarded(lambda: app(standalone_mode=False)))


def _guarded(call: Callable[[], object]) -> int:
    """Turn whatever happens into one sentence and an exit code."""
    try:
        code = call()
        return code if isinstance(code, int) else DONE
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return USAGE
    except (KeyboardInterrupt, click.Abort) as error:
        return _say("Interrupted.", error, INTERRUPTED)
    except AdapterToolsError as error:
        return _say(f"error: {error}", error, FAILED)
    except BrokenPipeError:
        # The reader of our output went away; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except OSError as error:
        where = f"{shown(error.filename)}: " if error.filename else ""
        return _say(f"error: {where}{error.strerror or error}.", error, FAILED)
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        return _say(
            f"{trace}\nThis is a bug in adaptertools {VERSION} (Python "
            f"{sys.version.split()[0]}, {sys.platform}). Please report it with the lines above.",
            error, BUG,
        )  # fmt: skip


def _say(text: str, error: BaseException, code: int) -> int:
    notes: list[str] = []
    cause: BaseException | None = error
    while cause is not None:  # click wraps an interrupt, and the note is on what it wrapped
        notes += getattr(cause, "__notes__", ())
        cause = cause.__cause__ or cause.__context__
    for line in (text, *notes):
        click.echo(line, err=True)
    return code
