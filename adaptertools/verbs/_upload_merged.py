"""A merged model's folder becomes what is published of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adaptertools import checkpoint
from adaptertools.errors import NotFound, first, shown
from adaptertools.facts import File
from adaptertools.hub.pieces import Piece
from adaptertools.verbs import _upload_base, _upload_card, _upload_choice, _upload_receipt
from adaptertools.verbs._finish import read_receipt
from adaptertools.verbs._upload_adapter import Licence, write_card
from adaptertools.verbs._upload_choice import CARD, RECEIPT
from adaptertools.verbs._upload_draft import WEIGHTS, Ask, Draft, check, stage

# What can be wrong with any folder; the other checks are about adapters.
_CHECKS = ("FIL002", "FIL007", "SEC010", "SEC011")
_TASKS = {"ForCausalLM": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM",
          "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS",
          "ForQuestionAnswering": "QUESTION_ANS", "LMHeadModel": "CAUSAL_LM"}  # fmt: skip


def drafted(ask: Ask, files: Mapping[str, File], card: str | None, licence: Licence) -> Draft:
    """Put the upload of a merged model together: what its receipt lists, and no path of here."""
    held = read_receipt(ask.folder)
    model = checkpoint.read(ask.folder, str(ask.folder))
    base = _upload_base.choose(_named(held, card), ask.base, RECEIPT)
    written = {str(file["name"]): str(file["sha256"]) for file in held["files"]}
    choice = _upload_choice.of_merged(
        files, written, model.shards, ask.include, ask.exclude, card or ""
    )
    relation, why = _upload_receipt.relation(held)
    own = _own(files, written)
    if not own and card and (kept := _upload_card.relation(card)):
        relation, why = kept, "the card says so"
    draft = Draft(
        kind="merged", contents={name: files[name].path for name in choice.sent},
        left=choice.left, base=base, relation=relation,
    )  # fmt: skip
    _compare(draft, written, model.shards)
    _write_receipt(draft, held, files[RECEIPT], base)
    if own and card is not None:
        card = _upload_receipt.text(card)
    facts = _upload_card.Facts(
        repo=ask.repo, base=base, relation=relation, library="transformers",
        tags=("adaptertools", *(["merge"] if relation == "merge" else [])), own=own,
        forced=own or ask.base is not None, task=_task(model.config),
    )  # fmt: skip
    write_card(draft, card, facts, licence)
    draft.say("UPL006", f"base_model_relation is {relation}: {why}.", CARD)
    small = {n: c for n, c in draft.contents.items() if not n.endswith(WEIGHTS)}
    if ask.check:
        check(draft, stage(small, ask.temp / "staged"), ask, _CHECKS)
    draft.message = f"Upload model merged from {base}"
    return draft


def _named(held: Mapping[str, Any], card: str | None) -> str:
    """Give the base that was merged into; where that was a folder, as the card calls it."""
    base = _upload_receipt.base(held)
    said = _upload_card.base(card) if card is not None else ""
    return said if said and not _upload_base.on_hub(base) else base


def _own(files: Mapping[str, File], written: Mapping[str, str]) -> bool:
    """Tell whether the card is the one that the merge wrote."""
    return CARD in files and Piece(CARD, files[CARD].path).sha256 == written.get(CARD)


def _compare(draft: Draft, written: Mapping[str, str], shards: Mapping[str, Any]) -> None:
    """Hold the files against the receipt: none may be missing, and others than written are told."""
    lost = [name for name in (*shards, *written) if name not in draft.contents and name != CARD]
    if lost := [name for name in lost if "--exclude" not in draft.left.get(name, "")]:
        why = draft.left.get(lost[0], "it is not there")
        raise NotFound(
            f"{first(lost)} of the merged model cannot be sent: {why}. Merge again, or restore it."
        )
    for name, digest in written.items():
        content = draft.contents.get(name)
        if name != CARD and content is not None and Piece(name, content).sha256 != digest:
            draft.say("UPL007", f"{shown(name)} is not what the merge wrote.", name, "warning")


def _write_receipt(draft: Draft, held: Mapping[str, Any], file: File, base: str) -> None:
    """Send the receipt with names in the place of paths."""
    public = _upload_receipt.receipt(held)
    if not _upload_base.on_hub(str(public["base"]["ref"]).partition("@")[0]):
        public["base"]["ref"] = base
    if public == held:
        return
    draft.contents[RECEIPT] = (json.dumps(public, indent=1) + "\n").encode()
    draft.notes[RECEIPT] = "paths reduced to names"
    draft.say("UPL005", f"The receipt is sent with names in the place of this machine's paths; the "
              f"base is {shown(base)}.", RECEIPT)  # fmt: skip


def _task(config: Mapping[str, Any]) -> str | None:
    name = next(iter(config.get("architectures") or ()), "")
    return next((task for end, task in _TASKS.items() if str(name).endswith(end)), None)
