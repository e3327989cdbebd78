"""Run the command line as a user does, in this process."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from adaptertools import cli

DEFAULT = "{f}/adapter --base {f}/base --out {f}/out"


@dataclass(frozen=True)
class Outcome:
    """What a command gave back."""

    code: int
    out: str
    err: str


def run(*args: str | Path) -> Outcome:
    """Call the program with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["adaptertools", *map(str, args)]
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as done:
            return Outcome(int(done.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main() always exits")


def contents(folder: Path) -> dict[str, bytes]:
    """Give every file below a folder, and every empty folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def merge(folder: Path, args: str = DEFAULT, *more: str) -> Outcome:
    """Merge, with the folder put in for {f}."""
    return run("merge", *args.format(f=folder).split(), *more)


def assert_refused(done: Outcome, *words: str) -> None:
    """Demand exit code 1, nothing on stdout, and one line that says these words."""
    assert (done.code, done.out) == (1, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert done.err.rstrip("\n").isprintable()
    assert done.err.endswith(".\n")
    for word in words:
        assert word in done.err
