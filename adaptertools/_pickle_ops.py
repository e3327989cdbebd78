"""A pickle taken apart into opcodes, with bounded memory; and the names that it refers to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from adaptertools._pickle_zip import Refused, Stored

LONGEST = 65_536  # bytes of one value: a name
ROOM = 120_000_000  # bytes that reading one pickle may take, about
MOST_GLOBALS = 1000
_STEP = 80  # bytes that one opcode takes, about
_REST = 300_000  # bytes in which more globals are looked for, once a pickle is refused

_TEXT, _GET, _PUT, _NAME, _NAMED = range(5)
_KINDS = {
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _TEXT),
    **dict.fromkeys(("STRING", "SHORT_BINSTRING", "BINSTRING"), _TEXT),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _GET),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _PUT),
    "GLOBAL": _NAME, "INST": _NAME, "STACK_GLOBAL": _NAMED,
}  # fmt: skip


class Window:
    """A part of a file, for the opcode lister: no long piece is ever loaded."""

    def __init__(self, file: BinaryIO, part: Stored) -> None:
        self.file, self.left, self.size = file, part.size, part.size
        file.seek(part.start)

    def read(self, count: int) -> bytes:
        """Read some bytes, fewer at the end of the part."""
        if count > LONGEST:
            raise Refused(f"it holds a single value of {count} bytes")
        found = self.file.read(min(count, self.left))
        self.left -= len(found)
        return found

    def readline(self) -> bytes:
        """Read a line, or as much of it as may be."""
        found = self.file.readline(min(LONGEST, self.left))
        self.left -= len(found)
        return found

    def soon(self) -> None:
        """End the part before long: what is refused is only looked through for its globals."""
        self.left, self.size = min(self.left, _REST), self.tell() + min(self.left, _REST)

    def tell(self) -> int:
        """Give the place in the part."""
        return self.size - self.left


def opcodes(window: Window) -> Iterator[tuple[str, Any]]:
    """Take a pickle apart; raise Refused where it is none, or takes too much."""
    import pickletools
    from sys import getsizeof

    room = ROOM
    try:
        for code, arg, _ in pickletools.genops(window):  # type: ignore[arg-type]
            room -= _STEP + (getsizeof(arg) if isinstance(arg, str | bytes) else 0)
            if room < 0:
                raise Refused(f"it takes more than {ROOM // 1_000_000} MB to read")
            yield code.name, arg
    except Refused:
        raise
    except (ValueError, OverflowError, EOFError) as error:
        raise Refused(f"it is no whole pickle: {error}") from None


class Names:
    """The globals that a pickle refers to, in the order of their first use."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self._texts: list[Any] = ["?", "?"]  # the last two values that may be texts
        self._memo: dict[int, str] = {}
        self._puts, self._fresh = 0, False

    def see(self, code: str, arg: Any) -> None:
        """Look at one opcode. Newer protocols put module and name on the stack as texts."""
        kind = _KINDS.get(code)
        if kind == _PUT:
            if self._fresh:
                self._memo[self._puts if arg is None else arg] = self._texts[1]
            self._puts += 1
            return
        self._fresh = kind == _TEXT
        if kind == _TEXT:
            self._texts = [self._texts[1], str(arg)]
        elif kind == _GET:
            self._texts = [self._texts[1], self._memo.get(arg, "?")]
        elif kind == _NAME:
            self._add(str(arg).replace(" ", ".", 1))
        elif kind == _NAMED:
            self._add(".".join(self._texts))

    def _add(self, name: str) -> None:
        if len(self.found) < MOST_GLOBALS:
            self.found[name] = None
