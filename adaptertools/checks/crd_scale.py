"""CRD: do the card, and what training left beside it, say the rank and alpha of the config?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adaptertools.checks import check
from adaptertools.checks._files import like
from adaptertools.errors import shown
from adaptertools.facts import File, Found, Result

Config = Mapping[str, Any]
# The card; settings of axolotl, LLaMA-Factory and others; configs of checkpoints.
_TEXTS = ("README.md", "*.yaml", "*.yml", "*/adapter_config.json")
_SMALL = 200_000  # bytes of one file that are looked at
_MOST = 20  # files
# What stands between a name and its number: `lora_alpha: 16`, | LoRA alpha (α) | 16 |, "r": 16.
_LINK = r"(?:\s{0,3}\([^()\n]{0,12}\))?[\s\"'`*:=|]{1,12}"
# The number is no part of a range, a list, a version or a sum.
_NUMBER = (
    r"(\d{1,6}(?:\.\d{1,4})?)(?![\w.]*\d|\s{0,3}(?:[-–~/x×*]|,\s{0,3}\d)|\s{1,3}(?:or|to|and)\b)"
)
_SAID = {
    "lora_alpha": re.compile(rf"\blora[_ -]?alpha{_LINK}{_NUMBER}", re.I),
    "r": re.compile(rf"\blora[_ -]?(?:rank|r|dim)\b{_LINK}{_NUMBER}|\"r\": {_NUMBER}", re.I),
    "use_rslora": re.compile(rf"\b(?:use_)?rslora{_LINK}(true|false)\b", re.I),
}


@check(
    "CRD006", "what is written of rank and alpha is so in the config", level="warning",
    fix="Find out which of them it was trained with.", reads=True,
)  # fmt: skip
def same_scale(config: Config, files: Mapping[str, File]) -> Result:
    """An alpha that was changed later scales the whole update, and no tensor shows it.

    Where the card, a training config beside it or the config of a checkpoint tells rank, alpha or
    use_rslora, one of the numbers that it tells should be the config's. Cards that tell none of
    them cannot be held to anything.
    """
    if config.get("peft_type") != "LORA":
        return
    told = [name for name, file in files.items() if like(name, _TEXTS) and file.size <= _SMALL]
    for name in told[:_MOST]:
        whole = files[name].read(_SMALL).decode("utf-8", errors="replace")
        for key, pattern in _SAID.items():
            have = config.get(key, False if key == "use_rslora" else None)
            values = _told(whole, pattern)
            if values and type(have) in (int, float, bool) and have not in values:
                value, line = next(iter(values.items()))
                text = f"{shown(name)} says {key} {value}, the config {shown(have)}."
                yield Found(text=text, file=name, line=line)


def _told(text: str, pattern: re.Pattern[str]) -> dict[float, int]:
    """Give the values that a text tells, and the line of each."""
    found: dict[float, int] = {}
    for match in pattern.finditer(text):
        word = match[match.lastindex or 1].lower()
        value = word == "true" if word.isalpha() else float(word) if "." in word else int(word)
        found.setdefault(value, text.count("\n", 0, match.start()) + 1)
    return found
