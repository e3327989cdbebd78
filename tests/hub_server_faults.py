"""What can go wrong on the way: faults by name, each limited by path, method, origin and times.

Before the request is served: a status ("503", "429", ...), html, json (cut short), stall, and reset
or drop (`after` bytes of a request's body; none of it is acted upon).
Afterwards, the request being done: lost (no answer comes), any status with `done=True`.
In a stored file: flip, swap, truncate, long. On the way back: ignore-range, shift, length, unsized,
bare, etag, and reset, drop or stall after `after` bytes of the answer.
"""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import dataclass, field

PAGE = b"<!DOCTYPE html><html><body>Please sign in to the network.</body></html>"
EARLY = {"html", "json", "stall", "reset", "drop"}
STORED = {"flip", "swap", "truncate", "long"}
WIRE = {"ignore-range", "shift", "length", "unsized", "bare", "etag", "lost"}
CUTS = {"reset", "drop", "stall"}


@dataclass
class Fault:
    """One thing that goes wrong, and where and how often."""

    name: str
    path: str = "*"
    method: str | None = None
    origin: str | None = None
    client: str | None = None  # the mark of its token, or a name in the path
    times: int | None = None
    skip: int = 0
    after: int | None = None
    done: bool = False
    retry_after: float | None = None
    seconds: float = 30.0
    by: int = 7
    at: int | None = None
    hits: int = 0

    def __post_init__(self) -> None:
        assert self.name.isdigit() or self.name in EARLY | STORED | WIRE, self.name
        if not set(self.path) & set("*?["):
            self.path = f"*{self.path}*"

    def fits(self, method: str, path: str, origin: str, client: str) -> bool:
        wanted = self.method or "GET POST PUT DELETE"
        return (
            (wanted == "*" or method in wanted.split())
            and self.origin in (None, origin)
            and (self.client in (None, client) or f"/{self.client}/" in path)
            and fnmatch.fnmatchcase(path, self.path)
        )

    def early(self, has_body: bool) -> bool:
        """Tell whether it strikes before the request is served."""
        if self.name.isdigit():
            return not self.done
        return self.name in EARLY and (self.after is None or has_body)


@dataclass
class Faults:
    """The faults of a hub."""

    all: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(
        self, asked: tuple[str, str, str, str], early: bool, has_body: bool, fits_answer: str
    ) -> list[Fault]:
        """Give the faults that strike a request now, and count them.

        asked: method, path, origin and client. fits_answer: "" for no answer yet, else what it
        has: "file", "range" (asked for), "other".
        """
        with self.lock:
            struck = []
            for fault in self.all:
                if not fault.fits(*asked) or fault.early(has_body) is not early:
                    continue
                if not early and not can_strike(fault, fits_answer):
                    continue
                fault.hits += 1
                if fault.skip < fault.hits <= fault.skip + (fault.times or 1 << 60):
                    struck.append(fault)
                    if early:
                        break  # the first is the end of the request
            return struck


def can_strike(fault: Fault, answer: str) -> bool:
    """Tell whether an answer has what the fault needs: stored bytes, a range."""
    if fault.name in STORED:
        return answer in ("file", "range")
    if fault.name in ("ignore-range", "shift"):
        return answer == "range"
    return True


def damaged(data: bytes, fault: Fault) -> bytes:
    """Give stored bytes as a fault leaves them."""
    if fault.name == "flip" and data:
        at = len(data) // 2 if fault.at is None else fault.at
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    if fault.name == "swap":
        return bytes(byte ^ 0x2A for byte in data[:4096]) + data[4096:]
    if fault.name == "truncate":
        return data[: len(data) // 2 if fault.after is None else fault.after]
    if fault.name == "long":
        return data + b"x" * fault.by
    return data
