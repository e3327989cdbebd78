"""A bar on stderr, for work that takes a while."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
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


def transfer(
    title: str, quiet: bool = False
) -> Callable[[int], AbstractContextManager[Callable[[int], None]]]:
    """Give what opens a bar once the number of bytes is known; none where nothing is to come."""

    @contextmanager
    def opened(total: int) -> Iterator[Callable[[int], None]]:
        with ExitStack() as stack:
            yield bar(stack, title, total, quiet or not total or _unwanted())

    return opened


def _unwanted() -> bool:
    """Tell whether huggingface_hub was told to show no bars; it is about the same transfers."""
    said = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "")
    return said.upper() in ("1", "ON", "YES", "TRUE")


def _silent(count: int) -> None:
    """Take progress and show nothing."""
