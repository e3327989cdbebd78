"""Do the fields of the config go together?"""

from __future__ import annotations

from adaptertools.checks import _peft as peft
from adaptertools.checks import check
from adaptertools.checks._cfg_rules import RULES, Fields, Rule
from adaptertools.checks._peft import Config, number, release
from adaptertools.facts import Facts, Found, Result


@check("CFG013", "the fields go together", fix="Write what the adapter was trained with.")
def together(config: Config, facts: Facts) -> Result:
    """PEFT refuses some combinations when it reads the config, others when it builds the layers.

    Such a file was edited, or a newer PEFT is stricter than the one that wrote it. With
    --peft-version only the rules of that release count.
    """
    kind, target = peft.kind(config), release(facts.peft_version)
    for rule in RULES:
        early = target is not None and target.number < number(rule.since)
        if kind in rule.types.split() and not early and _broken(rule, config):
            yield Found(text=rule.text, pointer=f"/{rule.field}", hint=rule.fix)


def _broken(rule: Rule, config: Config) -> bool:
    try:
        return rule.broken(Fields(config))
    except (TypeError, AttributeError, ArithmeticError):
        return False  # a value of the wrong type or size, which CFG005 and CFG009 report
