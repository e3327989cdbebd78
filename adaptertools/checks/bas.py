"""BAS: the base model that the adapter names, and the one that was given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from adaptertools.checks import check
from adaptertools.errors import shown
from adaptertools.facts import Facts, Found, Result

Config = Mapping[str, Any]
KEY = "base_model_name_or_path"
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLACE = re.compile(r"^(?:[/~.\\]|[A-Za-z]:[\\/]|file:)|\\|(?:/[^/]*){2,}")
# The first word of a folder on somebody's disk, which no owner on the Hub is called.
_FOLDER = re.compile(r"(?i)(?:(?:path|your[\w-]*|models?|saved_models?|checkpoints?|ckpts?|"
                     r"outputs?|results?|weights|local|data|content)/[\w.-]*|[^/]*/)")  # fmt: skip
_PACKED = re.compile(r"(?i)-(?:bnb-)?[48]bit\b|-gptq|-awq|-gguf|-int[48]\b|-fp8\b|-nf4\b|-exl2")
# Short names of the Hub's early days, and where those models are now.
_OLD = {
    "gpt2": "openai-community", "gpt2-medium": "openai-community", "gpt2-large": "openai-community",
    "gpt2-xl": "openai-community", "distilgpt2": "distilbert",
    "bert-base-uncased": "google-bert", "bert-base-cased": "google-bert",
    "bert-large-uncased": "google-bert", "bert-base-multilingual-cased": "google-bert",
    "distilbert-base-uncased": "distilbert", "distilbert-base-cased": "distilbert",
    "roberta-base": "FacebookAI", "roberta-large": "FacebookAI", "xlm-roberta-base": "FacebookAI",
    "xlm-roberta-large": "FacebookAI", "t5-small": "google-t5", "t5-base": "google-t5",
    "t5-large": "google-t5", "albert-base-v2": "albert",
}  # fmt: skip


def _name(config: Config) -> str:
    value = config.get(KEY)
    return value.strip() if isinstance(value, str) else ""


@check("BAS001", "the base is named", level="warning", fix=f"Set {KEY} to its repository.")
def named(config: Config) -> Result:
    """Without a base nobody can load the adapter on its own, and the Hub shows no family tree."""
    if not _name(config):
        yield Found(text=f"{KEY} is {shown(config.get(KEY))}.", pointer=f"/{KEY}")


@check("BAS002", "the base is no local path", fix=f"Set {KEY} to its repository on the Hub.")
def public(config: Config) -> Result:
    """A path of the machine that trained leads nowhere on another one, and the Hub refuses it."""
    name = _name(config)
    if _PLACE.search(name):
        kind = "an address" if "://" in name else "a path"
        yield Found(text=f"{KEY} is {shown(name)!r}, {kind}.", pointer=f"/{KEY}")
    elif _FOLDER.fullmatch(name) or re.search(r"[<>{}$]", name):
        yield Found(
            text=f"{KEY} is {shown(name)!r}, which looks like a folder or a placeholder.",
            pointer=f"/{KEY}", level="warning",
        )  # fmt: skip


@check(
    "BAS003", "the base has its owner's name", level="warning", fix=f"Write owner/name as {KEY}."
)
def owned(config: Config) -> Result:
    """A bare name is a folder's, or one of the Hub's early ones that only redirect."""
    name = _name(config)
    if name and "/" not in name and not _PLACE.search(name):
        now = f"{_OLD[name]}/{name}" if name in _OLD else ""
        yield Found(
            text=f"{KEY} is {shown(name)!r}, without an owner.", pointer=f"/{KEY}",
            hint=f"It is {now} now." if now else "",
        )  # fmt: skip


@check("BAS004", "the base's revision is pinned", level="note", fix="Write its commit as revision.")
def pinned(config: Config) -> Result:
    """A base that changes changes the model; only a commit is the same for ever."""
    revision = config.get("revision")
    if not _name(config) or (isinstance(revision, str) and _COMMIT.fullmatch(revision)):
        return
    if revision:
        yield Found(
            text=f"revision is {shown(revision)!r}, a branch or a tag.", pointer="/revision",
            level="warning",
        )  # fmt: skip
    else:
        yield Found(text="No revision of the base is recorded.", pointer="/revision")


@check("BAS005", "the base is there", fix="Name a base that can be fetched.")
def reachable(config: Config, online: Callable[[str], str]) -> Result:
    """A base that was deleted, renamed or locked makes the adapter useless to others."""
    name = _name(config)
    if not _REPO.fullmatch(name) and name not in _OLD:
        return
    answer = online(name)
    if answer == "missing":
        yield Found(text=f"{shown(name)} is not on the Hub.", pointer=f"/{KEY}")
    elif answer == "gated":
        yield Found(
            text=f"{shown(name)} asks its users to accept a licence.", pointer=f"/{KEY}",
            level="note", hint="Say so in the card.",
        )  # fmt: skip
    elif answer.startswith("moved: "):
        now = answer.removeprefix("moved: ")
        yield Found(
            text=f"{shown(name)} is {shown(now)} now.", pointer=f"/{KEY}", level="warning",
            hint="Write the new name.",
        )  # fmt: skip


@check("BAS006", "the base is not packed", level="warning",
       fix="Name the 16-bit parent; to merge, see --base-weights and --quant.")  # fmt: skip
def unpacked(config: Config, facts: Facts) -> Result:
    """An adapter on a 4-bit copy loads with that copy only, and merging it needs care."""
    name = _name(config)
    packing = facts.base.config.get("quantization_config") if facts.base else None
    if _PACKED.search(name) and not _PLACE.search(name):
        yield Found(text=f"{shown(name)} holds packed weights.", pointer=f"/{KEY}")
    elif isinstance(packing, dict):
        method = shown(packing.get("quant_method"))
        yield Found(text=f"The base that was given is packed ({method}).", pointer=f"/{KEY}")
