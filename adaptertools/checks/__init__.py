"""What could be wrong? One function per check; its parameters are the facts that it wants.

    @check("WGT004", "every lora_A has its lora_B", fix="Save the adapter again.")
    def pairs(weights: Weights) -> Result:
        '''Half a pair cannot be applied. The run was probably killed while saving.'''
        for name in ...:
            yield Found(text=f"{shown(name)} has no lora_B", tensor=name)

The docstring is the explanation that a user reads. A check whose facts are not there is skipped and
listed as skipped, never passed. Files are found by their names; each belongs to one family (CFG …).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from adaptertools import plugins
from adaptertools.facts import Facts, Found, Result
from adaptertools.report import Level

FACTS = frozenset(f.name for f in fields(Facts))
LINK = "https://github.com/adaptertools/adaptertools/blob/main/CHECKS.md#"
_WHOLE = "facts"  # a parameter of this name takes everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check and what it says of itself."""

    code: str
    title: str
    level: Level
    explanation: str
    fix: str
    needs: tuple[str, ...]
    run: Callable[..., Result]
    reads: bool = False  # whether it looks into files, whatever their names

    @property
    def link(self) -> str:
        """Where it is documented."""
        return LINK + self.code.lower()

    def missing(self, facts: Facts) -> str:
        """Name the first fact that is not there, and why; empty where all are."""
        for need in self.needs:
            if need != _WHOLE and getattr(facts, need) is None:
                return facts.why.get(need) or f"no {need}"
        return ""

    def look(self, facts: Facts) -> Iterator[Found]:
        """Run it on the facts that it names."""
        given: dict[str, Any] = {n: facts if n == _WHOLE else getattr(facts, n) for n in self.needs}
        return self.run(**given)


def check(
    code: str, title: str, *, fix: str, level: Level = "error", reads: bool = False
) -> Callable[[Callable[..., Result]], Check]:
    """Make a check of a function; its docstring is the explanation."""

    def made(run: Callable[..., Result]) -> Check:
        needs = tuple(inspect.signature(run).parameters)
        if odd := set(needs) - FACTS - {_WHOLE}:
            raise TypeError(f"{code} wants {', '.join(sorted(odd))}, which are no facts.")
        text = inspect.getdoc(run) or ""
        return Check(
            code=code, title=title, level=level, explanation=text, fix=fix, needs=needs, run=run,
            reads=reads,
        )  # fmt: skip

    return made


@cache
def catalogue() -> dict[str, Check]:
    """Give every check by its code, in the order of the codes."""
    found: dict[str, Check] = {}
    for name in plugins.names("checks"):
        for value in vars(plugins.load("checks", name)).values():
            if isinstance(value, Check):
                if value.code in found:
                    raise TypeError(f"{value.code} is there twice.")
                found[value.code] = value
    return dict(sorted(found.items()))
