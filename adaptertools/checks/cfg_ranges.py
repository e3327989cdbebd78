"""Are the numbers possible, and are they sensible?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite, sqrt
from typing import Any

from adaptertools.checks import _peft as peft
from adaptertools.checks import check
from adaptertools.checks._peft import Config, differences, inside, spoken
from adaptertools.checks.cfg_schema import RANGES
from adaptertools.dialect import WEIGHTS
from adaptertools.errors import shown
from adaptertools.facts import Facts, Found, Result

_LARGE, _ABSURD = 1024, 65_536
_USUAL = (1 / 8, 32)  # alpha / r of all but a few published adapters lies between
_STRONG = 64  # alpha / sqrt(r), which is larger for the same alpha
_RULES = {
    "minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than", "multipleOf": "a multiple of",
}  # fmt: skip
# Old releases had null as their default here, and then could not build the adapter.
_NEEDED = ("lora_alpha", "lora_dropout", "num_virtual_tokens")
_WITHOUT = ("CPT", "SUPERTUNING")  # which count tokens themselves, and need no scale
_ALPHAS = ("lora_alpha", "alpha")
_RANKS = ("r", "init_r", "target_r")


@check("CFG009", "each number is possible", fix="Write the number that it was trained with.")
def possible(config: Config, facts: Facts) -> Result:
    """A rank of 0 or a dropout of 1.5 is refused only after the base model was loaded.

    Servers divide by r, so a rank of 0 ends them. A scale of 0 turns the adapter off without a
    word, a negative one turns its effect around.
    """
    for difference in differences(config):
        if difference.keyword in RANGES:
            name, value = shown(difference.pointer[1:]), spoken(difference.value)
            rule = f"{_RULES[difference.keyword]} {difference.rule}"
            text = f"{name} is {value}, expected is {rule}"
            yield Found(text=text, pointer=difference.pointer)
    for field in _NEEDED if peft.kind(config) not in _WITHOUT else ():
        if field in peft.fields(config) and peft.said(config, field) is None:
            text = f"{field} is null, and no adapter can be built without it"
            level = "" if any(name in facts.files for name in WEIGHTS) else "warning"
            yield Found(text=text, pointer=f"/{field}", level=level)
    yield from _scales(config)
    if config.get("lora_dropout") == 1:
        text = "lora_dropout is 1: everything was dropped in training, so nothing was learnt"
        yield Found(text=text, pointer="/lora_dropout", level="warning")


def _scales(config: Config) -> Result:
    for pointer, value in _numbers(config, _ALPHAS, "alpha_pattern"):
        name = shown(pointer[1:])
        if not isfinite(value):
            yield Found(text=f"{name} is {value}, no number to scale by", pointer=pointer)
        elif value <= 0:
            effect = "turns the adapter off" if value == 0 else "turns its effect around"
            text = f"{name} is {value}, which {effect}"
            yield Found(text=text, pointer=pointer, level="warning")


def _numbers(
    config: Config, fields: tuple[str, ...], pattern: str
) -> Iterator[tuple[str, int | float]]:
    """Give the numbers under these names, and those of a pattern, by their pointers."""
    places: list[tuple[str, Any]] = [(f"/{f}", config[f]) for f in fields if f in config]
    inner = config.get(pattern)
    if isinstance(inner, Mapping):
        places += [(inside(f"/{pattern}", key), value) for key, value in inner.items()]
    for pointer, value in places:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield pointer, value


@check(
    "CFG010", "ranks are of a size that an adapter has", level="warning",
    fix="Correct the rank, or publish the merged model: such an adapter is as large as one.",
)  # fmt: skip
def sized(config: Config) -> Result:
    """The rank decides how much memory is taken before a single weight was read.

    A config of some bytes can ask for terabytes. Published adapters have ranks up to 1024; servers
    allow 8 to 512.
    """
    for pointer, value in _numbers(config, _RANKS, "rank_pattern"):
        name = shown(pointer[1:])
        if value > _ABSURD:
            text = f"{name} is {spoken(value)}, more than any weight has rows"
            yield Found(text=text, pointer=pointer, level="error")
        elif value > _LARGE and not pointer.startswith("/rank_pattern"):
            yield Found(text=f"{name} is {spoken(value)}, an unusually large rank", pointer=pointer)


@check(
    "CFG016", "the update is scaled as updates usually are", level="note",
    fix="Nothing, if it was trained so; else write the alpha that it was trained with.",
)  # fmt: skip
def scaled(config: Config) -> Result:
    """An alpha that was changed after training changes every output, and nothing says so.

    alpha / r lies between 1/4 and 32 in all adapters that were looked at. With use_rslora it is
    alpha / sqrt(r), and alphas that were meant for the other formula become very strong.
    """
    rank, alpha = (peft.said(config, field) for field in ("r", "lora_alpha"))
    numbers = all(type(value) in (int, float) and value > 0 for value in (rank, alpha))
    if peft.kind(config) != "LORA" or not numbers or not isfinite(alpha) or not isfinite(rank):
        return
    if peft.said(config, "use_rslora") is True:
        if alpha / sqrt(rank) > _STRONG:
            scale = f"{alpha / sqrt(rank):.3g}"
            text = f"lora_alpha / sqrt(r) is {scale}: with use_rslora a very strong update"
            yield Found(text=text, pointer="/lora_alpha")
    elif not _USUAL[0] <= alpha / rank <= _USUAL[1]:
        text = f"lora_alpha / r is {alpha / rank:.3g}; 1/8 to 32 is usual"
        yield Found(text=text, pointer="/lora_alpha")
