"""How much memory a model takes at most: torch's count on a GPU, the process's own on a CPU."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """The most bytes in use while it was watched; None where the system does not say."""

    bytes: int | None = None


@contextmanager
def watched(place: str, held: int = 0) -> Iterator[Peak]:
    """Let go of what is free, then watch the memory; `held` bytes of the process do not count."""
    import torch

    peak = Peak()
    gc.collect()
    if place == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.bytes = int(torch.cuda.max_memory_allocated())
        return
    with suppress(AttributeError, OSError):  # glibc keeps what was freed, and it would be counted
        ctypes.CDLL(None).malloc_trim(0)
    done = threading.Event()
    watcher = threading.Thread(target=_sample, args=(peak, done), daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        if peak.bytes is not None:
            peak.bytes = max(0, peak.bytes - held)


def _sample(peak: Peak, done: threading.Event) -> None:
    while (now := resident()) is not None:
        peak.bytes = max(peak.bytes or 0, now)
        if done.wait(0.005):
            return


def resident() -> int | None:
    """Give the memory of this process in bytes; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None
