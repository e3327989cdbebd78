"""Can a regular expression of the config keep a program busy for ever?"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from adaptertools.checks import _regex, check
from adaptertools.checks._peft import Config, inside
from adaptertools.errors import shown
from adaptertools.facts import Facts, Found, Result

_TEXTS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern")
_LISTS = ("layers_pattern", "modules_to_save")  # PEFT takes each item for an expression
_SECONDS = 5  # for trying expressions in a process of their own
_LOOKED_AT = 200_000  # letters of all expressions together
# Names that make an expression work, where the weights tell none.
_NAMES = ("base_model.model.model.layers.10.self_attn.q_projX", "a" * 31 + "X", "x" * 50)


@check(
    "SEC008", "no regular expression can run for ever",
    fix="Write a list of names, or an expression without repeats inside repeats.",
)  # fmt: skip
def expressions(config: Config, facts: Facts) -> Result:
    """PEFT matches expressions of the config with every module's name, without a deadline.

    Where a repeat stands inside a repeat, the time doubles with every letter: "(.*)*q_projX" keeps
    a processor busy for more than five seconds on one name of 31 letters. What looks harmless and
    is not simple is tried, in a process of its own, for a second.
    """
    left, trial = _LOOKED_AT, _Trial([*_NAMES, *_modules(facts)])
    for pointer, pattern in _found(config):
        if _regex.plain(pattern):
            continue
        left -= len(pattern)
        if left < 0:
            text = f"there are more than {_LOOKED_AT} letters of expressions; the rest is not read"
            yield Found(text=text, pointer=pointer, level="warning")
            break
        text, level = _judged(pattern, trial)
        if text:
            yield Found(text=f"{shown(pattern, 80)}: {text}", pointer=pointer, level=level)
    if trial.untried:
        text = f"{trial.untried} expressions are not simple, and there was no time to try them"
        yield Found(text=text, level="warning")


class _Trial:
    """Tries expressions, for a few seconds in all."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.until, self.untried = names, time.monotonic() + _SECONDS, 0

    def too_slow(self, pattern: str) -> bool:
        """Tell whether matching took too long; where there is no time left, count it."""
        if time.monotonic() > self.until:
            self.untried += 1
            return False
        try:
            _regex.matching([pattern], self.names)
        except _regex.TooSlow:
            self.until = 0.0  # one is enough to refuse the adapter
            return True
        except re.error:
            pass  # CFG011 says so
        return False


def _judged(pattern: str, trial: _Trial) -> tuple[str, str]:
    """Give what is wrong, and how bad it is."""
    if len(pattern) > _regex.LONGEST:
        return f"the expression has {len(pattern)} letters and is not looked at", "warning"
    measured = _regex.work(pattern)
    if measured.broken:
        return "", ""  # CFG011 says so
    if measured.endless:
        return "a repeat inside a repeat, which can take for ever", "error"
    if not _regex.harmless(pattern, measured) and trial.too_slow(pattern):
        return "matching it with a name took more than a second", "error"
    if measured.quantifiers > _regex.MOST_QUANTIFIERS:
        return f"{measured.quantifiers} repeats in one expression", "warning"
    if measured.choices:
        return "a choice inside a repeat, which can take for ever", "warning"
    return "", ""


def _modules(facts: Facts) -> list[str]:
    """Give names as PEFT would match them."""
    tensors = facts.weights.tensors if facts.weights else {}
    return [name[:200] for name, _ in zip(tensors, range(200), strict=False)]


def _found(config: Config) -> Iterator[tuple[str, str]]:
    """Give everything that PEFT takes for an expression, with its place."""
    for field in _TEXTS:
        if isinstance(value := config.get(field), str):
            yield f"/{field}", value
    for field in _LISTS:
        value = config.get(field)
        for i, item in enumerate(value if isinstance(value, list) else ()):
            if isinstance(item, str):
                yield f"/{field}/{i}", item
    for field, value in config.items():
        if field.endswith("_pattern") and isinstance(value, dict):
            yield from ((inside(f"/{field}", key), key) for key in value)
