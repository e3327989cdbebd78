"""The card that is published: the user's own words, with what the Hub and people need added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptertools.errors import shown
from adaptertools.verbs._upload_base import on_hub
from adaptertools.verbs._upload_front import Front
from adaptertools.verbs.inspect import Inspection

BEGIN = "<!-- adaptertools: upload writes this part anew -->"
END = "<!-- adaptertools: end -->"
_MOST = 12  # kinds of modules that are listed
_TAG = "base_model:adapter:"
_LICENCE = ("license", "license_name", "license_link")
_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering", "TOKEN_CLS": "AutoModelForTokenClassification",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the card must say."""

    repo: str
    base: str
    relation: str  # in the Hub's words: adapter, merge, finetune, quantized
    library: str
    tags: Sequence[str]
    forced: bool = False  # the user named the base, so it goes before the card's own
    replaced: str = ""  # a path that stood for the base
    licence: Mapping[str, str] | None = None  # the base's, for a card without one
    table: Sequence[tuple[str, str]] = ()
    task: str | None = None
    own: bool = False  # the card that is there was written by us, words and all


def written(old: str | None, facts: Facts) -> tuple[str, list[str]]:
    """Give the card to publish, and what was changed in the old one.

    What the user wrote stays: words, unknown keys, comments, order. Mending twice changes nothing.
    Raises Unreadable or Unsupported where the front matter cannot be mended.
    """
    front = Front(old if old is not None else _words(facts))
    _mend(front, facts)
    text = front.text()
    if facts.table:
        text = _with_table(text, facts.table, front)
    return text, [] if old is None else front.said


def _mend(front: Front, facts: Facts) -> None:
    base = facts.base
    front.swap("tags", lambda tag: _leads_nowhere(tag, facts.replaced), f"{_TAG}{base}")
    if facts.replaced:
        front.swap("base_model", lambda name: name == facts.replaced, base)
    said = front.meta.get("base_model")
    names = [str(name) for name in (said if isinstance(said, list) else [said])]
    other = bool(said) and not any(_alike(name, base) for name in names)
    # A path that the config no longer names, or a base that the user just corrected.
    if other and (facts.forced or not all(map(on_hub, names))):
        front.replace("base_model", base)
    front.fill("base_model", base)
    if facts.relation == "adapter" or facts.own:
        front.replace("base_model_relation", facts.relation)
    front.fill("base_model_relation", facts.relation)
    # PEFT's own push_to_hub leaves transformers' card behind, which hides the adapter.
    if facts.library == "peft" and front.meta.get("library_name") == "transformers":
        front.replace("library_name", facts.library)
    front.fill("library_name", facts.library)
    front.extend("tags", facts.tags)
    if not any(front.meta.get(key) for key in _LICENCE):
        for key, value in (facts.licence or {}).items():
            front.fill(key, value)


def _leads_nowhere(tag: str, replaced: str) -> bool:
    """Tell whether a tag, as PEFT writes it, names a base that is none."""
    name = tag.removeprefix(_TAG)
    return name != tag and (name == replaced or not on_hub(name))


def _alike(one: str, other: str) -> bool:
    return one.lower().strip("/") == other.lower().strip("/")


def licence(card: Mapping[str, Any] | None) -> dict[str, str]:
    """Take the licence from another card, where it is in plain words."""
    held = {key: (card or {}).get(key) for key in _LICENCE}
    found = {k: v for k, v in held.items() if isinstance(v, str) and v and v.isprintable()}
    return found if "license" in found else {}


def adapter_table(found: Inspection, base: str) -> list[tuple[str, str]]:
    """Say what an adapter is in a few rows."""
    stored = found.weights
    rows = [
        ("base model", f"`{shown(base)}`"),
        ("method", ", ".join(map(shown, (found.method or "unknown", *found.variants)))),
        ("rank", _numbers(found.rank)),
        ("alpha", _numbers(found.alpha)),
        ("targets", _listed(found.targets)),
        ("saved whole", _listed(found.saved)),
        ("parameters", f"{stored.parameters:,}" if stored else ""),
        ("dtype", ", ".join(shown(each.lower()) for each in stored.dtypes) if stored else ""),
    ]
    return [(name, text) for name, text in rows if text]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _listed(names: Sequence[str]) -> str:
    some = [f"`{shown(name).replace('|', '¦')}`" for name in names[:_MOST]]
    return ", ".join(some) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _with_table(text: str, rows: Sequence[tuple[str, str]], front: Front) -> str:
    """Write the table where it was, or at the end."""
    lines = [BEGIN, "", "| | |", "|-|-|", *(f"| {name} | {said} |" for name, said in rows), "", END]
    table = front.end.join(lines)
    start = text.find(BEGIN)
    stop = text.find(END, start)
    if 0 <= start < stop:
        if text[start:stop] + END != table:
            front.said.append("the table of the adapter")
        return text[:start] + table + text[stop + len(END) :]
    front.said.append("the table of the adapter")
    return text.rstrip("\r\n") + 2 * front.end + table + front.end


def _words(facts: Facts) -> str:
    """Write the words of a card where there is none."""
    name, base = facts.repo.rpartition("/")[2], shown(facts.base)
    kind = _CLASSES.get(facts.task or "", "AutoModel")
    adapter = facts.library == "peft"
    lines = ["", f"# {shown(name)}", "", f"{'An adapter of' if adapter else 'Made from'} `{base}`.",
             "", "```python", *["from peft import PeftModel"] * adapter,
             f"from transformers import {kind}", ""]  # fmt: skip
    if adapter:
        lines += [f'model = {kind}.from_pretrained("{base}")',
                  f'model = PeftModel.from_pretrained(model, "{shown(facts.repo)}")']  # fmt: skip
    else:
        lines += [f'model = {kind}.from_pretrained("{shown(facts.repo)}")']
    return "\n".join(["---", "---", *lines, "```", ""])


def licensed(card: str | None) -> bool:
    """Tell whether a card names a licence."""
    return card is not None and any(Front(card).meta.get(key) for key in _LICENCE)


def relation(card: str) -> str:
    """Give what a card says the model is to its base; empty where it says nothing that counts."""
    said = Front(card).meta.get("base_model_relation")
    return str(said) if said in ("merge", "finetune", "quantized") else ""


def base(card: str) -> str:
    """Give the base that a card names, where it is one and on the Hub."""
    said = Front(card).meta.get("base_model")
    only = said[0] if isinstance(said, list) and len(said) == 1 else said
    return only if isinstance(only, str) and on_hub(only) else ""
