"""Does the config say which modules are adapted, in a way that PEFT understands?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptertools.checks import _peft as peft
from adaptertools.checks import _regex, check
from adaptertools.checks._peft import Config, inside, spoken
from adaptertools.errors import shown
from adaptertools.facts import Facts, Found, Result

_EXPRESSIONS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern")
_LISTED = ("layers_pattern", "modules_to_save")  # each item is one
_LONGEST = 4096  # what is longer is SEC008's to speak of
_NAMES = re.compile(r"\w[\w.]*(\s*,\s*\w[\w.]*)+")
_WORDS = ("all-linear", "dummy-target-modules")  # which PEFT understands
# Modules of a model's top level: a whole name has no dot there.
_TOPMOST = frozenset({"classifier", "embed_out", "lm_head", "qa_outputs", "score"})


@check(
    "CFG011", "target_modules and its kin say which modules are adapted",
    fix="Write a list of names, the ends of module names: [\"q_proj\", \"v_proj\"].",
)  # fmt: skip
def targets(config: Config, facts: Facts) -> Result:
    """A list names the ends of module names; a text is one regular expression for whole names.

    So "q_proj" adapts nothing, and "['q_proj', 'v_proj']" is a set of letters. An empty list or a
    broken expression raises only after the base model was loaded. Matched as
    peft/tuners/tuners_utils.py does.
    """
    value = config.get("target_modules")
    if value == [] and not config.get("target_parameters"):
        yield Found(text="target_modules is an empty list", pointer="/target_modules")
    if isinstance(value, str) and peft.kind(config) != "ADAPTION_PROMPT":
        fault = _fault(value, facts)
        if fault is not None:
            yield fault
            return
    for pointer, expression in _expressions(config):
        if why := _broken(expression):
            text = f"{shown(pointer[1:])} is no regular expression: {shown(why)}"
            hint = "Escape what is meant literally with a backslash."
            yield Found(text=text, pointer=pointer, hint=hint)


def _fault(value: str, facts: Facts) -> Found | None:
    """Say what is wrong with a text in the place of names."""
    names = re.findall(r"\w[\w.]*", value[:_LONGEST])
    as_list = ", ".join(f'"{shown(name)}"' for name in names[:8])
    hint = f"Write [{as_list}{', …' * (len(names) > 8)}]."
    if value.lower() in _WORDS:
        return None
    if not value.strip():
        words, hint = "an empty text, which no module is called", ""
    elif _listed(value.strip()):
        words = "a list written as text, which is a set of letters as an expression"
    elif _NAMES.fullmatch(value[:_LONGEST]):
        words = "names in one text, which are one expression that no module's name fits"
    elif re.fullmatch(r"\w+", value) and not _whole_name(value, facts):
        words = f"{spoken(value)}, an expression for whole names; no module is called just that"
    else:
        return None
    return Found(text=f"target_modules is {words}", pointer="/target_modules", hint=hint)


def _listed(word: str) -> bool:
    return word.startswith("[") and word.endswith("]") and ("'" in word or '"' in word)


def _whole_name(name: str, facts: Facts) -> bool:
    """Tell whether a module of the top level may have this name: the weights know."""
    if facts.weights is None:
        return name in _TOPMOST
    start = f"base_model.model.{name}."
    return any(tensor.startswith(start) for tensor in facts.weights.tensors)


def _expressions(config: Config) -> Iterator[tuple[str, str]]:
    """Give everything that PEFT takes for a regular expression."""
    for field in _EXPRESSIONS:
        if isinstance(value := config.get(field), str):
            yield f"/{field}", value
    for field in _LISTED:
        for i, item in enumerate(value if isinstance(value := config.get(field), list) else ()):
            if isinstance(item, str):
                yield f"/{field}/{i}", item
    for field, value in config.items():
        if field.endswith("_pattern") and isinstance(value, dict):
            yield from ((inside(f"/{field}", key), key) for key in value)


def _broken(expression: str) -> str:
    """Say why an expression does not compile; it is parsed only, as compiling can take minutes."""
    return "" if len(expression) > _regex.LONGEST else _regex.work(expression).broken


@check(
    "CFG012", "target_modules is written down", level="warning",
    fix="Write the modules that the weights are for, as a list of names.",
)  # fmt: skip
def resolved(config: Config) -> Result:
    """Where it is null, each PEFT release fills in its own default for the architecture.

    These tables change, and weights of modules that are not in them are dropped without a word.
    PEFT saves what it resolved, so a null was never loaded and saved again; "all-linear" means
    what the base happens to have.
    """
    if (
        not peft.kind(config)
        or "target_modules" not in peft.schema_of(peft.kind(config))["properties"]
    ):
        return
    value = peft.said(config, "target_modules")
    if value is None:
        text = "target_modules is null, so PEFT's default for the architecture counts"
        yield Found(text=text, pointer="/target_modules")
    elif isinstance(value, str) and value.lower() == "all-linear":
        text = "target_modules is all-linear, which depends on the base that is loaded"
        yield Found(text=text, pointer="/target_modules")
