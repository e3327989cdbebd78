"""CRD: the card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adaptertools.checks import check
from adaptertools.errors import first, shown
from adaptertools.facts import Card, Facts, Found, Result

Config = Mapping[str, Any]
CARD = "README.md"
_EMPTY = "[More Information Needed]"
# What a base's name suggests of its licence.
_FAMILIES = (
    ("llama2", re.compile(r"llama-?2|codellama")), ("llama3", re.compile(r"llama-?[34]")),
    ("gemma", re.compile(r"gemma-?[123n](?!\d)|gemma-7b|codegemma|paligemma")),
    ("cc-by-nc-4.0", re.compile(r"command-r|aya-")), ("openrail", re.compile(r"stable-diffusion")),
    ("falcon", re.compile(r"falcon-180b")),
)  # fmt: skip
_FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "unlicense", "cc-by-4.0")


@check("CRD001", "there is a card that says what this is", level="warning",
       fix="Write README.md with library_name and base_model in its front matter.")  # fmt: skip
def there(facts: Facts) -> Result:
    """The Hub reads the front matter: without it nobody finds the adapter or knows its base."""
    card = facts.card
    if card is None:
        yield Found(text="There is no README.md.", file=CARD)
    elif card.fault:
        yield Found(text=f"The front matter is no YAML map: {card.fault}.", file=CARD, line=1)
    elif card.meta is None:
        yield Found(text="README.md has no front matter.", file=CARD, line=1)
    elif card.meta.get("library_name") != "peft":
        said = card.meta.get("library_name")
        yield Found(text=f"library_name is {shown(said)}, not peft.", file=CARD, line=1)


@check("CRD002", "card and config name the same base", fix="Write the config's base as base_model.")
def same_base(card: Card, config: Config) -> Result:
    """The Hub's model tree follows the card, loaders follow the config; they should agree."""
    said = (card.meta or {}).get("base_model")
    named = config.get("base_model_name_or_path")
    bases = [str(b) for b in said] if isinstance(said, list) else [str(said)] if said else []
    if not bases:
        yield Found(text="The card names no base_model.", file=CARD, line=1, level="warning")
    elif isinstance(named, str) and named and not any(alike(b, named) for b in bases):
        yield Found(
            text=f"The card says {first(bases, 2)}, the config {shown(named)}.", file=CARD, line=1
        )


def alike(one: str, other: str) -> bool:
    """Compare names as the Hub does; old names have no owner."""
    a, b = one.lower().strip("/"), other.lower().strip("/")
    return a == b or (("/" in a) != ("/" in b) and a.rpartition("/")[2] == b.rpartition("/")[2])


@check(
    "CRD003", "the template is filled in", level="warning", fix="Say what it does, in a sentence."
)
def filled(card: Card) -> Result:
    """PEFT writes a card of placeholders; 84 % of the cards that were found in public are that."""
    count = card.body.count(_EMPTY)
    if count > 3:
        yield Found(text=f"{count} places still say {_EMPTY}.", file=CARD)


@check("CRD004", "there is a licence", level="warning", fix="Write license: in the front matter.")
def licensed(card: Card, facts: Facts) -> Result:
    """Without a licence nobody may use it; one that is freer than the base's needs a look."""
    meta = card.meta or {}
    licence = meta.get("license")
    if not licence and not meta.get("license_name"):
        yield Found(text="The card names no license.", file=CARD, line=1)
        return
    if licence == "other" and not meta.get("license_name"):
        yield Found(
            text="license is other, and license_name does not say which.", file=CARD, line=1
        )
    base = str((facts.config or {}).get("base_model_name_or_path")).lower()
    family = next((name for name, words in _FAMILIES if words.search(base)), "")
    if family and licence in _FREE:
        yield Found(
            text=f"license is {shown(licence)}, and the base's name suggests {family}.", file=CARD,
            line=1, level="note", hint="Review whether the base's licence allows that.",
        )  # fmt: skip


@check("CRD005", "the card can be found", level="note",
       fix="Write datasets, language and pipeline_tag in the front matter.")  # fmt: skip
def findable(card: Card) -> Result:
    """Search on the Hub filters by these; an adapter without them is hard to find."""
    lack = [k for k in ("datasets", "language", "pipeline_tag") if not (card.meta or {}).get(k)]
    if len(lack) == 3:
        yield Found(text=f"The card has no {first(lack)}.", file=CARD, line=1)
