"""Many module names as a few patterns: `model.layers.0-3,5.self_attn.{k,q}_proj`.

A pattern is a product of what stands between its dots: numbers as ranges, words in braces, all else
as it is. It stands for exactly the names that it was folded from. A backslash goes before the
signs `\\ { } ,` of a name, and before the dash of a name such as `0-3`, which is no range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

MOST_PARTS = 32  # a longer name stands for itself; real ones have a dozen
MOST_NUMBERS = 4  # numbers in one name that make ranges; further ones are words
MOST_PATTERNS = 10_000  # more are not looked at for words in common

_SIGNS = re.compile(r"[\\{},]")
_RANGES = re.compile(r"\d+-\d+")

Numbers = tuple[int, ...]
Words = frozenset[str]
Parts = tuple[Numbers | Words, ...]


def fold(names: Iterable[str]) -> tuple[str, ...]:
    """Write names as patterns; each name is of exactly one of them."""
    every = set(names)
    long = {name for name in every if name.count(".") >= MOST_PARTS}
    shapes: dict[tuple[str | None, ...], list[Numbers]] = {}
    for name in every - long:
        shape, numbers = _apart(name.split("."))
        shapes.setdefault(shape, []).append(numbers)
        if len(shapes) > MOST_PATTERNS:  # taking them apart further would fill the memory
            return tuple(sorted(map(_itself, every)))
    patterns = [parts for shape, held in shapes.items() for parts in _filled(shape, held)]
    if len(patterns) <= MOST_PATTERNS:
        patterns = _joined(patterns)
    texts = [".".join(_text(part) for part in parts) for parts in patterns]
    return tuple(sorted([*texts, *map(_itself, long)]))


def kind(name: str) -> str:
    """Give a name with a star for each number: what modules of one kind have in common."""
    return ".".join("*" if _number(part) else part for part in name.split("."))


def place(name: str) -> int | None:
    """Give the first number in a name, which is its layer; None where there is none."""
    return next((int(part) for part in name.split(".") if _number(part)), None)


def _number(part: str) -> bool:
    """Tell whether a part is a number, and written as Python would."""
    plain = part.isascii() and part.isdigit() and len(part) < 10
    return plain and (part == "0" or part[0] != "0")


def _apart(parts: Sequence[str]) -> tuple[tuple[str | None, ...], Numbers]:
    """Give the words, with None for each number, and the numbers."""
    at = [i for i, part in enumerate(parts) if _number(part)][:MOST_NUMBERS]
    shape = tuple(None if i in at else part for i, part in enumerate(parts))
    return shape, tuple(int(parts[i]) for i in at)


def _boxes(points: Sequence[Numbers]) -> Iterator[tuple[Numbers, ...]]:
    """Cut sorted points into products of sets of numbers; no two have a point in common."""
    if not points[0]:
        yield ()
        return
    alike: dict[tuple[Numbers, ...], list[int]] = {}
    for number, held in groupby(points, itemgetter(0)):
        alike.setdefault(tuple(point[1:] for point in held), []).append(number)
    for rest, numbers in alike.items():
        for box in _boxes(rest):
            yield (tuple(numbers), *box)


def _filled(shape: Sequence[str | None], points: Iterable[Numbers]) -> Iterator[Parts]:
    """Write the names of one shape as few patterns."""
    words = [None if word is None else frozenset((word,)) for word in shape]
    for box in _boxes(sorted(points)):
        numbers = iter(box)
        yield tuple(next(numbers) if word is None else word for word in words)


def _joined(patterns: list[Parts]) -> list[Parts]:
    """Join patterns that differ in one word, the last words first."""
    for at in reversed(range(max(map(len, patterns), default=0))):
        kept: list[Parts] = []
        alike: dict[tuple[Parts, Parts], Words] = {}
        for parts in patterns:
            part = parts[at] if at < len(parts) else ()
            if isinstance(part, frozenset):
                around = parts[:at], parts[at + 1 :]
                alike[around] = alike.get(around, frozenset()) | part
            else:
                kept.append(parts)
        patterns = kept + [(*a, words, *b) for (a, b), words in alike.items()]
    return patterns


def _text(part: Numbers | Words) -> str:
    if isinstance(part, tuple):
        return ",".join(_runs(part))
    words = sorted(part)
    if len(words) == 1:
        return _escaped(words[0])
    start, end = _shared(words)
    inner = ",".join(_escaped(word[len(start) : len(word) - len(end)]) for word in words)
    return f"{_escaped(start)}{{{inner}}}{_escaped(end)}"


def _runs(numbers: Numbers) -> Iterator[str]:
    """Write sorted numbers as runs: 0-3, 5, 7-23."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        held = [number for _, number in run]
        yield str(held[0]) if len(held) == 1 else f"{held[0]}-{held[-1]}"


def _shared(words: Sequence[str]) -> tuple[str, str]:
    """Give what all words begin and end with, up to an underscore: no word is cut."""
    start = _beginning(words)
    return start, _beginning([word[len(start) :][::-1] for word in words])[::-1]


def _beginning(words: Sequence[str]) -> str:
    first, last = min(words), max(words)  # what these two begin with, all between them do
    pairs = enumerate(zip(first, last, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(first), len(last)))
    return first[: first.rfind("_", 0, same) + 1]


def _itself(name: str) -> str:
    """Write the pattern that stands for one name."""
    return ".".join(map(_escaped, name.split(".")))


def _escaped(word: str) -> str:
    if _RANGES.fullmatch(word):
        return word.replace("-", r"\-")
    return _SIGNS.sub(r"\\\g<0>", word)
