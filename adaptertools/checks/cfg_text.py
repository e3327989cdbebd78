"""Is adapter_config.json a JSON text, whose is it, and of which method?"""

from __future__ import annotations

from difflib import get_close_matches

from adaptertools.checks import _peft as peft
from adaptertools.checks import check
from adaptertools.checks._peft import Config, number, release, spoken
from adaptertools.dialect import CONFIG, NAMES, WEIGHTS
from adaptertools.errors import shown
from adaptertools.facts import Facts, Found, Problem, Result, Text

_SILENT = ("duplicate", "constant")  # what Python's reader takes without a word
_SUCCESSORS = {"BONE": "MISS"}
_ELSEWHERE = {
    "mlx": "mlx_lm loads it.",
    "adapterhub": "The adapters library loads it.",
    "tunix": "Tunix loads it.",
    "lerobot": "LeRobot loads it.",
}


def _found(problem: Problem, words: str) -> Found:
    return Found(
        text=words, file=CONFIG, pointer=problem.pointer, line=problem.line, column=problem.column
    )


@check("CFG001", "adapter_config.json is a JSON text", fix="Save it again as plain UTF-8 JSON.")
def readable(facts: Facts) -> Result:
    """Without a readable config nothing can load the adapter.

    PEFT raises on a byte order mark, UTF-16, comments and trailing commas, and ends in a
    RecursionError for deep nesting. Numbers of thousands of digits take Python minutes to read.
    Editors on Windows add byte order marks; people add the commas.
    """
    text, there = facts.text, [name for name in WEIGHTS if name in facts.files]
    if text is None and there:
        hint = "Copy adapter_config.json from where the adapter was trained."
        yield Found(text=f"{there[0]} is there and no {CONFIG}", hint=hint)
    if text is None or facts.dialect == "lfs":  # a pointer to the file is no fault of the text
        return
    for problem in text.problems:
        if problem.kind not in _SILENT:
            yield _found(problem, f"{CONFIG}: {problem.text}")
    if text.value is not None and not isinstance(text.value, dict):
        yield Found(text=f"{CONFIG} holds {spoken(text.value)}, not an object", file=CONFIG)


@check("CFG002", "nothing in it is dropped or made up", fix="Keep one of the two; write a number.")
def unambiguous(text: Text) -> Result:
    """Python reads duplicate keys, NaN and Infinity without a word; others refuse the file.

    Of two equal keys the last one counts, so a person who reads the first one is wrong about the
    adapter. NaN is no JSON: strict readers, among them every browser, stop there.
    """
    for problem in text.problems:
        if problem.kind in _SILENT:
            yield _found(problem, problem.text)


@check(
    "CFG003", "the config is PEFT's", level="note",
    fix="Nothing, if this is no PEFT adapter; else save it with PEFT's save_pretrained.",
)  # fmt: skip
def dialect(text: Text, dialect: str) -> Result:
    """Several libraries call their config adapter_config.json, and mean different things by it.

    MLX-LM writes its training arguments there, AdapterHub its bottleneck layers. Checks about
    PEFT's configs do not apply to them, and PEFT cannot load them.
    """
    if dialect not in ("peft", "lfs", "none"):
        yield Found(
            text=f"{CONFIG} was written by {NAMES.get(dialect, shown(dialect))}, so it was not "
            "checked as a PEFT config",
            file=CONFIG, hint=_ELSEWHERE.get(dialect, ""),
        )  # fmt: skip


@check(
    "CFG004", "peft_type is a method that PEFT has",
    fix="Write the method's name in upper case, such as LORA.",
)  # fmt: skip
def method(config: Config, facts: Facts) -> Result:
    """PEFT looks its config class up under peft_type; what is not there is a bare KeyError.

    It must be spelled as PEFT does, in upper case. Types come with releases, and BONE was taken
    out in 0.19.0, where MISS replaced it.
    """
    value = config.get("peft_type")
    if "peft_type" not in config or value is None:
        yield Found(text="there is no peft_type", pointer="/peft_type")
    elif peft.kind(config):
        yield from _in_time(peft.kind(config), facts.peft_version)
    else:
        yield _unknown(value, config)


def _unknown(value: object, config: Config) -> Found:
    name = value.strip().upper() if isinstance(value, str) else ""
    near = get_close_matches(name[:40], peft.types(), 1, 0.75)
    later = peft.later(config) and name == value
    return Found(
        text=f"peft_type is {spoken(value)}, which no PEFT up to {peft.newest()} has",
        pointer="/peft_type", level="note" if later else "",
        hint=f'Write "{near[0]}".' if near else "",
    )  # fmt: skip


def _in_time(name: str, wanted: str | None) -> Result:
    """Say that the PEFT that is to read it, or the newest one, does not have the type."""
    said, target = peft.schema_of(name), release(wanted)
    since, until = said["x-since"], said.get("x-until", "")
    if target is not None and target.number < number(since):
        text = f"{name} came with PEFT {since}; {shown(wanted)} raises a KeyError"
        yield Found(text=text, pointer="/peft_type", hint=f"Use PEFT {since}.")
    elif until and (target is None or target.number > number(until)):
        instead = _SUCCESSORS.get(name, "")
        hint = f"Use PEFT {until}" + (f", or train anew as {instead}." if instead else ".")
        text = f"{name} is gone: PEFT {until} was the last to have it, later ones raise a KeyError"
        yield Found(text=text, pointer="/peft_type", hint=hint)
