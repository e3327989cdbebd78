"""An adapter's folder becomes what is published of it: chosen, converted, mended, validated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from adaptertools import jsontext
from adaptertools.dialect import NAMES, dialect
from adaptertools.errors import NotFound, Unreadable, Unsupported, first, shown
from adaptertools.facts import File
from adaptertools.verbs import _upload_base, _upload_card, _upload_choice
from adaptertools.verbs._gather import CONFIG, PICKLED, WEIGHTS
from adaptertools.verbs._upload_choice import CARD
from adaptertools.verbs._upload_draft import Ask, Draft, check, stage
from adaptertools.verbs.convert import convert
from adaptertools.verbs.inspect import inspect

Licence = Callable[[str], tuple[dict[str, str], str]]  # base -> its licence, and what went wrong


def drafted(ask: Ask, files: Mapping[str, File], card: str | None, licence: Licence) -> Draft:
    """Put the upload of an adapter together.

    `card` is the card to mend: the folder's own, or the repository's. Raises what `upload` raises.
    """
    config = _config(files, ask)
    base = _upload_base.choose(config.get(_upload_base.KEY), ask.base, CONFIG)
    choice = _upload_choice.of_adapter(files, ask.include, ask.exclude, card or "")
    if CONFIG not in choice.sent:
        raise NotFound(f"{CONFIG} would not be sent ({choice.left[CONFIG]}), and nothing loads the "
                       "adapter without it.")  # fmt: skip
    draft = Draft(
        kind="adapter", contents={name: files[name].path for name in choice.sent},
        left=choice.left, base=base, relation="adapter",
    )  # fmt: skip
    if PICKLED in draft.contents:
        _convert(draft, ask)
    _name_base(draft, config, base, files[CONFIG])
    staged = stage({n: c for n, c in draft.contents.items() if n != CARD}, ask.temp / "staged")
    _write_card(draft, ask, card, config, licence, staged)
    stage({n: c for n, c in draft.contents.items() if n == CARD}, staged)
    if ask.check:
        check(draft, staged, ask)
    draft.message = f"Upload {config.get('peft_type') or 'adapter'} adapter of {base}"
    return draft


def _config(files: Mapping[str, File], ask: Ask) -> Mapping[str, Any]:
    """Read the config; refuse what no upload can make sense of."""
    data = files[CONFIG].read(jsontext.MAX_BYTES + 1)
    text = jsontext.read(data)
    kind = dialect(data, text.value, files)
    if text.value is None and text.problems and kind != "lfs":
        problem = text.problems[-1]
        raise Unreadable(
            f"{shown(ask.folder / CONFIG)} is not JSON, line {problem.line}: {problem.text}. "
            "Mend it, or save the adapter again."
        )
    if kind != "peft" or not isinstance(text.value, dict):
        raise Unsupported(
            f"{shown(ask.folder / CONFIG)} is that of {NAMES[kind]}, and upload publishes PEFT's "
            f"adapters. `hf upload {shown(ask.repo)} {shown(ask.folder)}` sends a folder as it is."
        )
    return text.value


def _convert(draft: Draft, ask: Ask) -> None:
    """Put safetensors in the place of the pickle; it is not unpickled."""
    out = ask.temp / "converted"
    convert(draft.contents.pop(PICKLED), out=out)  # type: ignore[arg-type]
    draft.contents = dict(sorted({**draft.contents, WEIGHTS: out / WEIGHTS}.items()))
    draft.left = {**draft.left, PICKLED: f"a pickle; {WEIGHTS} is made from it and sent instead"}
    draft.notes[WEIGHTS] = f"made from {PICKLED}"
    draft.say("UPL002", f"{PICKLED} is a pickle and is sent as {WEIGHTS}, with the same values.")


def _name_base(draft: Draft, config: Mapping[str, Any], base: str, file: File) -> None:
    named = config.get(_upload_base.KEY)
    if named == base:
        return
    draft.contents[CONFIG] = _upload_base.renamed(file.read(jsontext.MAX_BYTES + 1), base)
    draft.notes[CONFIG] = f"its base is {base}"
    draft.say(
        "UPL001", f"The copy that is sent names {shown(base)} as its base in place of "
        f"{shown(named)!r}; the file here is left as it is.", CONFIG,
    )  # fmt: skip


def _write_card(
    draft: Draft, ask: Ask, card: str | None, config: Mapping[str, Any], licence: Licence,
    staged: Any,
) -> None:  # fmt: skip
    found = inspect(staged)
    old = config.get(_upload_base.KEY)
    named = old if isinstance(old, str) and old != draft.base else ""
    method = (found.method or "adapter").lower()
    facts = _upload_card.Facts(
        repo=ask.repo, base=draft.base, relation="adapter", library="peft",
        tags=(method, "adaptertools"), forced=ask.base is not None, replaced=named,
        table=_upload_card.adapter_table(found, draft.base), task=found.task,
    )  # fmt: skip
    write_card(draft, card, facts, licence)


def write_card(draft: Draft, card: str | None, facts: _upload_card.Facts, licence: Licence) -> None:
    """Write or mend the card of a draft, with the base's licence where it has none."""
    if CARD in draft.left:
        return
    if not _upload_card.licensed(card):
        known, why = licence(draft.base)
        facts = replace(facts, licence=known)
        if why:
            draft.say("UPL004", why, CARD, level="warning")
        elif known:
            draft.say("UPL003", f"The licence, {shown(known['license'])}, is that of the base's "
                      "card. Write another where that is wrong.", CARD)  # fmt: skip
    text, changes = _upload_card.written(card, facts)
    if text == card:
        if CARD not in draft.contents:
            draft.contents[CARD] = text.encode()
        return
    draft.contents[CARD] = text.encode()
    draft.notes[CARD] = f"mended: {first(changes, 9)}" if card is not None else "written"
