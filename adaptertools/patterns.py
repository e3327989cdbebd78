"""PEFT's rank and alpha patterns: expressions from a stranger, matched with bounded work."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from adaptertools.errors import Unreadable, Unsafe, shown

# Patterns come from a stranger: few of each construct, so that every match ends soon.
_PLAIN = re.compile(r"\\.|\[[^\]]*\]")  # escapes and sets, which match one character each
_LIMITS = {")*": 0, ")+": 0, "){": 0, "*": 3, "+": 3, "{": 2, "?": 6, "(": 6}
_FLAGS = re.compile(r"\(\?[a-zA-OQ-Z]")  # with them, compiling a set can take a second
_MOST = 5000  # patterns of one map


@lru_cache(maxsize=50_000)
def _endless(pattern: str, length: int) -> bool:
    """Tell whether matching a pattern with a name of that length could take very long."""
    bare = _PLAIN.sub("x", pattern)
    repeats = sum(bare.count(sign) for sign in "*+{")
    long = len(pattern) > 500 or repeats > 3 or length ** (repeats + 1) > 3e9
    flagged = bool(_FLAGS.search(pattern))
    return long or flagged or any(bare.count(sign) > limit for sign, limit in _LIMITS.items())


@lru_cache(maxsize=_MOST)
def _compiled(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings(action="ignore"):  # Python has views on odd sets
        return re.compile(rf"(.*\.)?({pattern})$")


def matches_whole(pattern: str, name: str, key: str) -> bool:
    """Tell whether a stranger's pattern, found under a config key, matches a whole name."""
    if _endless(pattern, len(name)):
        raise Unsafe(f"{key}: the pattern {shown(pattern)!r} could run for ever. Simplify it.")
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise Unreadable(f"{key}: {shown(pattern)!r} is no pattern: {shown(error)}.") from None


def pattern_value(config: Mapping[str, Any], key: str, target: str, default: Any) -> Any:
    """Give the value of the first pattern, in the file's order, that matches the end of the name.

    peft/utils/other.py, get_pattern_key: re.match(rf"(.*\\.)?({pattern})$", target).
    """
    value = default
    patterns = config.get(key) or {}
    if len(patterns) > _MOST:
        raise Unsafe(f"{key} holds {len(patterns)} patterns, more than the {_MOST} that are tried.")
    for pattern, found in patterns.items():
        if _endless(pattern, len(target)):
            raise Unsafe(f"{key}: the pattern {shown(pattern)!r} could run for ever. Simplify it.")
        try:
            matched = _compiled(pattern).match(target)
        except re.error as error:
            raise Unreadable(f"{key}: {shown(pattern)!r} is no pattern: {shown(error)}.") from None
        if matched:
            value = found
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise Unreadable(f"{key} or its default gives {shown(target)} {shown(value)}, no number.")
    return value
