"""A bar on stderr, for work that takes a while."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial


def bar(stack: ExitStack, title: str, total: int, quiet: bool) -> Callable[[int], None]:
    """Show a bar of bytes until the stack closes; give what advances it, from any thread."""
    if quiet or not sys.stderr.isatty():
        return _silent
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    stack.enter_context(progress)
    return partial(progress.advance, progress.add_task(title, total=total))


def _silent(count: int) -> None:
    """Take progress and show nothing."""
