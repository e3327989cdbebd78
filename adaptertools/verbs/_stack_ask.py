"""What the user may ask of a stack: weights, ranks, patterns, held against what can be meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adaptertools import plugins
from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.tensorfile import FLOATS

if TYPE_CHECKING:
    from adaptertools.blends import Options as Blending

Kind = Literal["auto", "max", "number", "energy", "budget"]
LARGEST = 512  # the most that any server takes (vLLM's max_lora_rank); PEFT itself has no limit

_RANKS = "auto, max, a number, energy:0.99 or budget:16"
_DTYPES = {"float64": "F64", "fp64": "F64", "float32": "F32", "fp32": "F32", "float16": "F16",
           "fp16": "F16", "bfloat16": "BF16", "bf16": "BF16"}  # fmt: skip
_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")
_MOST = 10_000  # numbers that one range stands for


@dataclass(frozen=True, slots=True)
class Ask:
    """How the rank of each module is to be found."""

    kind: Kind
    number: float = 0.0

    @classmethod
    def of(cls, text: str | int) -> Ask:
        """Read `--rank`; raise Unsupported for what it cannot be."""
        said = str(text)
        name, sign, value = said.partition(":")
        if said == "auto" or said == "max":
            return cls("auto" if said == "auto" else "max")
        if said.isascii() and said.isdigit() and 0 < int(said) < 2**31:
            return cls("number", int(said))
        number = _float(value) if sign else None
        if name == "energy" and number is not None and 0 < number <= 1:
            return cls("energy", number)
        if name == "budget" and number is not None and 0 < number < 2**31:
            return cls("budget", number)
        raise Unsupported(f"--rank {shown(said)} is no rank. Give {_RANKS}.")

    def __str__(self) -> str:
        return {"number": f"{self.number:g}"}.get(
            self.kind, self.kind + (f":{self.number:g}" if self.number else "")
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A weight for some modules, of one adapter or of all: `C@*.layers.{0-15}.*=0`."""

    text: str
    adapter: str  # empty: every one
    pattern: re.Pattern[str]
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As `stack` documents them, checked before anything is opened."""

    how: str
    rank: Ask
    max_rank: int
    uniform_rank: bool
    allow_lossy: bool
    dtype: str | None  # a header's code; None for what the adapters have, at least float32
    base_check: str
    whole: str  # "error", "mean", or the adapter whose saved modules win
    seed: int
    verify: bool
    emulate: bool = False  # `how` is another tool's
    density: float | None = None
    epsilon: float | None = None
    gamma: float | None = None
    common: float | None = None

    def __post_init__(self) -> None:
        known = tools() if self.emulate else hows()
        if self.how not in known:
            option = "--emulate" if self.emulate else "--how"
            raise Unsupported(f"{option} {shown(self.how)} is unknown. Known: {', '.join(known)}.")
        if self.base_check not in ("strict", "warn", "off"):
            raise Unsupported(
                f"--base-check {shown(self.base_check)} is unknown. Known: strict, warn, off."
            )
        if self.max_rank < 1:
            raise Unsupported(f"--max-rank {self.max_rank} leaves nothing. Give 1 or more.")
        _ = self.settings("")

    def settings(self, target: str) -> Blending:
        """Give what the blend of one module asks for; raise Unsupported for what it cannot be."""
        from adaptertools.blends import Options as Blending

        names = ("density", "epsilon", "gamma", "common")
        given = {n: value for n in names if (value := getattr(self, n)) is not None}
        rank = int(self.rank.number) if self.rank.kind == "number" else None
        return Blending(target=target, seed=self.seed, rank=rank, **given)

    def as_json(self) -> dict[str, Any]:
        """Give what reports and receipts say of them."""
        said = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: v for k, v in said.items() if v is not None} | {"rank": str(self.rank)}


def hows() -> list[str]:
    """List what `--how` takes: the files of the room."""
    return [name.replace("_", "-") for name in plugins.names("blends")]


def tools() -> list[str]:
    """List what `--emulate` takes."""
    from adaptertools.blends._emulate import EMULATORS

    return sorted(EMULATORS)


def dtype_code(dtype: str | None) -> str | None:
    """Give a header's code for `--dtype`; "keep" is the widest of the adapters' own."""
    if dtype is None or dtype == "keep":
        return dtype
    if dtype not in _DTYPES:
        known = ", ".join(FLOATS.values())
        raise Unsupported(f"--dtype {shown(dtype)} is unknown. Known: {known}, keep.")
    return _DTYPES[dtype]


def whole_choice(text: str) -> str:
    """Read `--modules-to-save`: error, mean, or from=ADAPTER."""
    if text in ("error", "mean"):
        return text
    if text.startswith("from=") and len(text) > 5:
        return text
    raise Unsupported(
        f"--modules-to-save {shown(text)} is unknown. Give from=ADAPTER, or mean, or leave it out."
    )


def weighed(text: str) -> tuple[str, float]:
    """Read `ADAPTER=0.5`; without a weight it is 1. Raises Unsupported for what is no weight."""
    ref, sign, value = text.rpartition("=")
    if not sign or (_float(value) is None and Path(text).exists()):
        return text, 1.0
    number = _float(value)
    if number is None or not isfinite(number) or not ref:
        raise Unsupported(
            f"{shown(text)}: {shown(value) or 'nothing'} is no weight. Write ADAPTER=0.5, with a "
            "finite number."
        )
    return ref, number


def weights_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """Give one finite weight for each adapter; 1 where none are given."""
    if not count:
        raise Mismatch("No adapters were given. Name one or more.")
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise Mismatch(f"{count} adapters and {len(given)} weights were given. Give one for each.")
    if not all(isfinite(weight) for weight in given):
        raise Unsupported(f"A weight is not a finite number: {first(given)}.")
    return given


def rules(asked: Mapping[str, float] | Sequence[str], adapters: Sequence[Adapter]) -> list[Rule]:
    """Read `--weight [ADAPTER@]PATTERN=NUMBER`, or a map of the same; the last match wins."""
    if isinstance(asked, Mapping):
        asked = [f"{pattern}={weight!r}" for pattern, weight in asked.items()]
    return [_rule(text, adapters) for text in asked]


def _rule(text: str, adapters: Sequence[Adapter]) -> Rule:
    where, sign, value = text.rpartition("=")
    number = _float(value)
    name, at, pattern = where.rpartition("@")
    if not sign or number is None or not isfinite(number) or not pattern or (at and not name):
        raise Unsupported(
            f"--weight {shown(text)} is no weight. Write ADAPTER@PATTERN=0.5, such as "
            "C@*.layers.{0-15}.*=0."
        )
    return Rule(text, named(name, adapters).ref if at else "", _pattern(pattern), number)


def named(name: str, adapters: Sequence[Adapter]) -> Adapter:
    """Find the adapter that a name means: as it was given, or the last part of that."""
    found = [adapter for adapter in adapters if adapter.ref == name]
    found = found or [adapter for adapter in adapters if Path(adapter.ref).name == name]
    if len(found) != 1:
        raise Mismatch(
            f"{shown(name)} names {len(found) or 'none'} of the adapters: "
            f"{first(adapter.ref for adapter in adapters)}. Name one as it was given."
        )
    return found[0]


def _pattern(text: str) -> re.Pattern[str]:
    """Read a pattern of module names: `*`, `?`, `{0-15}`, `{q,k}_proj`; the whole name matches."""
    made, rest = "", text
    while rest:
        sign, rest = rest[0], rest[1:]
        if sign == "*":
            made += "" if made.endswith(".*") else ".*"
        elif sign == "{" and "}" in rest:
            inner, _, rest = rest.partition("}")
            made += f"(?:{'|'.join(_choice(word) for word in inner.split(','))})"
        else:
            made += "." if sign == "?" else re.escape(sign)
    if made.count(".*") > 4:
        raise Unsupported(f"--weight {shown(text)}: more than four stars. Use {{…}} for numbers.")
    return re.compile(made)


def _choice(word: str) -> str:
    span = _RANGE.fullmatch(word)
    if span is None:
        return re.escape(word)
    low, high = int(span[1]), int(span[2])
    if high - low >= _MOST or high < low:
        raise Unsupported(f"--weight {{{shown(word)}}} is no range of numbers.")
    return "|".join(map(str, range(low, high + 1)))


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
