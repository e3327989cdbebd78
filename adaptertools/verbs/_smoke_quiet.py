"""How smoke meets torch's world: what must be installed, quietly, its errors in one sentence."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from adaptertools.errors import AdapterToolsError, Unreadable, Unsupported, shown


def need(*packages: str, extra: str = "models") -> None:
    """Refuse, with the way out, when one of these packages is not installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise Unsupported(
            f"smoke needs {', '.join(missing)}: not installed. It loads the models and runs them. "
            f"Run `pip install 'adaptertools[{extra}]'`."
        )


@contextmanager
def hush(*, small: bool) -> Iterator[None]:
    """Keep torch's world silent on stderr, and its dice as they were; put all back afterwards.

    Small models run on one thread: they gain little from more, and lose much when those wait.
    """
    with ExitStack() as after:
        after.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)
        after.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        import torch
        from transformers.utils import logging as bars

        if not gc.get_freeze_count():  # what is here already need not be looked through each time
            after.callback(gc.unfreeze)
            gc.freeze()
        if bars.is_progress_bar_enabled():
            after.callback(bars.enable_progress_bar)
            bars.disable_progress_bar()
        if small:
            after.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        after.enter_context(torch.random.fork_rng(devices=[]))
        after.enter_context(torch.no_grad())
        yield


@contextmanager
def explained(what: str, ref: str) -> Iterator[None]:
    """Turn whatever transformers, PEFT or bitsandbytes raise into one sentence."""
    try:
        yield
    except AdapterToolsError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if "out of memory" in text or isinstance(error, MemoryError):
            raise Unsupported(
                f"{shown(ref)} could not be {what}: it does not fit into memory. "
                "Try --quant 4bit, or --device cpu."
            ) from error
        raise Unreadable(
            f"{shown(ref)} could not be {what}: {type(error).__name__}: {shown(text).rstrip('.')}."
        ) from error


def device(name: str) -> str:
    """Give the device to run on; raise Unsupported where it is not there."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise Unsupported(f"--device {shown(name)} is unknown. Known: auto, cpu, cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise Unsupported("--device cuda: torch sees no CUDA device here. Use --device cpu.")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
