"""Which PEFT releases know what the config says, and does it fit the one that wrote it?"""

from __future__ import annotations

from adaptertools.checks import _peft as peft
from adaptertools.checks import check
from adaptertools.checks._peft import Config, Known, Version, number, release, spoken
from adaptertools.errors import shown
from adaptertools.facts import Facts, Found, Result

_DROPS = (0, 14)  # since this release, unknown keys are dropped with a warning; before, it raises


@check(
    "CFG007", "the PEFT that reads it knows every key", level="note",
    fix="Name the PEFT release that is needed in the README.",
)  # fmt: skip
def keys_in_time(config: Config, facts: Facts) -> Result:
    """Fields come and go with PEFT's releases; what a release does not know has no effect there.

    Before 0.14.0 an unknown key is a TypeError, since then it is dropped with a warning. With
    --peft-version this says what that release would miss; without, only what is gone by now.
    """
    target = release(facts.peft_version)
    least = peft.implied_minimum(config)
    for known in peft.windows(config):
        if target is not None and target.number < number(known.since):
            yield _too_new(known, target.number, shown(facts.peft_version), least)
        elif known.until and (target is None or target.number > number(known.until)):
            words = f"{shown(known.pointer[1:])} has no effect after PEFT {known.until}"
            yield Found(text=words, pointer=known.pointer, hint="Take it out.")
    if peft.later(config):
        text = f"it is from PEFT {spoken(config['peft_version'])}, newer than {peft.newest()}, up "
        text += "to which fields are known here"
        hint = "Update adaptertools; until then unknown keys may be right."
        yield Found(text=text, pointer="/peft_version", hint=hint)


def _too_new(known: Known, target: Version, name: str, least: str) -> Found:
    raises = target < _DROPS
    effect = "raises a TypeError" if raises else "drops it"
    harmless = known.default and not raises
    text = f"{shown(known.pointer[1:])} came with PEFT {known.since}; {name} {effect}"
    if harmless:
        text += ", which changes nothing: it is the default"
    level = "error" if raises else "note" if harmless else "warning"
    return Found(text=text, pointer=known.pointer, level=level, hint=f"Use PEFT {least} or newer.")


@check(
    "CFG008", "it fits the PEFT version that it says wrote it", level="warning",
    fix="Save the adapter again with PEFT's save_pretrained.",
)  # fmt: skip
def version_fits(config: Config) -> Result:
    """A PEFT release writes no keys that later ones brought, so such a file was edited by hand.

    PEFT writes peft_version since 0.18.0. It parses the version for some methods and raises on
    what is none. Development versions are somewhere between two releases and are not compared.
    """
    said = config.get("peft_version")
    if not isinstance(said, str):
        return
    own = release(said)
    if own is None:
        yield Found(text=f"peft_version is {spoken(said)}, which is none", pointer="/peft_version")
    elif own.finished:
        for known in peft.windows(config):
            if own.number < number(known.since):
                text = f"{shown(known.pointer[1:])} came with PEFT {known.since}, the file says "
                yield Found(text=f"{text}it is from {shown(said)}", pointer=known.pointer)
