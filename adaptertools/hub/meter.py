"""What counts the bytes of a transfer: huggingface_hub takes it for a progress bar."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Meter:
    """What counts a file's bytes as they come: never backwards, and never more than there are."""

    size: int
    advance: Callable[[int], None]
    stop: threading.Event
    told: int = 0

    def reach(self, count: int) -> None:
        """Say how many bytes are there; stop the transfer where everything is to stop."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        if (count := min(count, self.size)) > self.told:
            self.advance(count - self.told)
            self.told = count


class Bar:
    """What huggingface_hub takes for a tqdm bar: it moves a meter and draws nothing."""

    def __init__(self, *args: object, meter: Meter, initial: int = 0, **options: object) -> None:
        self._meter, self.n, self.total = meter, initial or 0, options.get("total")

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        """Close nothing."""

    def update(self, n: float | None = 1) -> None:
        """Count bytes; fewer than none where huggingface_hub starts a file again."""
        self.n += int(n or 0)
        self._meter.reach(self.n)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*args: object, **options: object) -> None:
    """Take what a bar is told, and do nothing."""
