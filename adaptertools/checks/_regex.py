"""Regular expressions from a stranger: how much work they can make, and matching with a deadline.

The screen only parses. It cannot see everything, and compiling alone can take minutes, so whatever
is not plainly harmless is compiled and matched in a process of its own that is stopped in time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 4096  # letters of an expression that is looked at
MOST_QUANTIFIERS = 50
SECONDS = 1.0  # of processor time, for all names

_PLAIN = re.compile(r"[\w.\- /]*")
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_FEW = 9  # a part that repeats no more often than this is taken for none that repeats
_HARMLESS, _SHORT = 3, 300  # quantifiers and letters of names that are matched at once
_WAIT = 20.0  # seconds by the clock, where the processor's time cannot be limited or had

_WORKER = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
patterns, names, how, seconds = json.load(sys.stdin)
try:
    import signal
    signal.setitimer(signal.ITIMER_PROF, seconds)
except (ImportError, AttributeError):
    pass
print(json.dumps([[bool(getattr(re.compile(p), how)(n)) for n in names] for p in patterns]))
"""


class TooSlow(ValueError):
    """Matching could not be finished in time."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an expression can make a matcher do."""

    height: int = 0  # repeats within repeats: at 2, time doubles with every letter of a name
    quantifiers: int = 0
    choices: bool = False  # a choice inside a repeat, which can be as bad
    broken: str = ""  # why it does not compile

    @property
    def endless(self) -> bool:
        """Whether it can take for ever."""
        return self.height > 1

    def __or__(self, other: Work) -> Work:
        return Work(
            max(self.height, other.height), self.quantifiers + other.quantifiers,
            self.choices or other.choices, self.broken or other.broken,
        )  # fmt: skip


def plain(pattern: str) -> bool:
    """Tell whether it is a name, at most with dots."""
    return bool(_PLAIN.fullmatch(pattern))


def work(pattern: str) -> Work:
    """Measure an expression of at most LONGEST letters, without compiling it."""
    if plain(pattern):
        return Work()
    parser: Any = re._parser  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings(action="ignore"):  # Python has views on odd sets
            return _measured(parser.parse(pattern), inside=False)
    except (re.error, OverflowError) as error:
        return Work(broken=str(error))
    except RecursionError:
        return Work(broken="it is nested too deep")


def _measured(part: Any, *, inside: bool) -> Work:
    """Measure a parsed part; `inside` a repeat, choices multiply."""
    total = Work()
    for code, value in part:
        name = str(code)
        if name in _REPEATS:
            least, most, body = value
            often = most > _FEW
            held = _measured(body, inside=inside or often)
            optional = inside and not often and least != most
            total |= Work(held.height + often, held.quantifiers + 1, held.choices or optional)
        elif name == "BRANCH":
            total |= Work(choices=inside)
        elif name == "ASSERT" or name == "ASSERT_NOT":
            total |= _looked_behind(value)
        for body in _bodies(name, value):
            total |= _measured(body, inside=inside)
    return total


def _bodies(name: str, value: Any) -> Iterable[Any]:
    """Give the parts of a part that is no repeat."""
    if name == "SUBPATTERN":
        return [value[3]]
    if name == "BRANCH":
        return list(value[1])
    if name in ("ASSERT", "ASSERT_NOT"):
        return [value[1]]
    if name == "ATOMIC_GROUP":
        return [value]
    if name == "GROUPREF_EXISTS":
        return [body for body in value[1:] if body is not None]
    return []


def _looked_behind(value: Any) -> Work:
    direction, body = value
    least, most = body.getwidth()
    fixed = direction >= 0 or least == most
    return Work(broken="" if fixed else "look-behind requires fixed-width pattern")


def matching(
    patterns: Sequence[str], names: Sequence[str], how: str = "fullmatch"
) -> list[frozenset[str]]:
    """Give the names that each expression matches, by re's function `how`.

    Raises TooSlow for an expression that can take for ever, or where a second is not enough, and
    re.error for one that does not compile.
    """
    measured = [work(pattern) for pattern in patterns]
    if broken := next((each.broken for each in measured if each.broken), ""):
        raise re.error(broken)
    if any(each.endless for each in measured) or any(len(p) > LONGEST for p in patterns):
        raise TooSlow("it repeats what repeats")
    short = max(map(len, names), default=0) <= _SHORT
    if short and all(harmless(p, each) for p, each in zip(patterns, measured, strict=True)):
        found = [[bool(getattr(re.compile(p), how)(name)) for name in names] for p in patterns]
    else:
        found = _apart(patterns, names, how)
    return [
        frozenset(name for name, hit in zip(names, row, strict=True) if hit) for row in found
    ]  # fmt: skip


def harmless(pattern: str, measured: Work) -> bool:
    """Tell whether it is matched here. Sets and flags are not: compiling them can take long."""
    few = measured.quantifiers <= _HARMLESS and not measured.choices and len(pattern) < 500
    return plain(pattern) or (few and "[" not in pattern and "(?" not in pattern.replace("(?:", ""))


def _apart(patterns: Sequence[str], names: Sequence[str], how: str) -> list[list[bool]]:
    """Match in another process."""
    asked = json.dumps([patterns, names, how, SECONDS])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _WORKER], input=asked, capture_output=True,
            text=True, timeout=_WAIT, encoding="utf-8",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TooSlow("it takes longer than it may") from None
    if done.returncode < 0:
        raise TooSlow("it takes longer than it may")
    if done.returncode:
        raise re.error(done.stderr.strip().rpartition("\n")[2][:200])
    rows: list[list[bool]] = json.loads(done.stdout)
    return rows
