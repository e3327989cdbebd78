"""Which files of a folder are published, and why the others stay at home."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adaptertools import hub
from adaptertools.checks import _files
from adaptertools.checks._files import CONFIG, PICKLED, WEIGHTS
from adaptertools.facts import File

CARD, RECEIPT, INDEX = "README.md", "adaptertools.json", "model.safetensors.index.json"

_WORDS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*", "CITATION.cff")
# What loaders of an adapter read, and what people must be able to read with it.
_ADAPTER = (
    CONFIG, WEIGHTS, CARD, *_WORDS, "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "*.model", "*.tiktoken", "spiece.*", "sentencepiece.*", "normalizer.json", "chat_template.*",
    "additional_chat_templates/*", "*processor_config.json", "new_embeddings.safetensors",
)  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npy", "*.npz")
_UNFINISHED = ("*.partial", "*.partial/", "*.incomplete", "*.tmp", "*.lock", "*~")
_PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp")
# No --include brings these back.
_NEVER = (
    (_UNFINISHED, "unfinished, or of an editor"),
    (_files.LEFTOVERS, "the training wrote it for itself"),
    (_PICKLES, "a pickle, which can run code when it is loaded"),
    (("adaptertools*.json",), "a receipt that names places of this machine"),
)
_STRANGE = "not among what an adapter needs (--include it)"


@dataclass(frozen=True, slots=True)
class Choice:
    """What is sent, by name, and why each other file is not."""

    sent: tuple[str, ...]
    left: Mapping[str, str] = field(default_factory=dict)


def of_adapter(
    files: Mapping[str, File], include: Sequence[str], exclude: Sequence[str], card: str
) -> Choice:
    """Choose the files of an adapter: a list of what is sent, not of what is not."""
    homes = [name.removesuffix(CONFIG) for name in files if name.endswith("/" + CONFIG)]
    sent, left = [], {}
    for name, file in files.items():
        reason = _unsent(file) or _elsewhere(name, homes) or _kept(name, files, include)
        if not reason and _any(name, exclude):
            reason = "left out by --exclude"
        if not reason and not _wanted(name, include, card) and name != PICKLED:
            reason = _STRANGE
        if reason:
            left[name] = reason
        else:
            sent.append(name)
    return _safe(sent, left)


def of_merged(
    files: Mapping[str, File], written: Collection[str], shards: Collection[str],
    include: Sequence[str], exclude: Sequence[str], card: str,
) -> Choice:  # fmt: skip
    """Choose the files of a merged model: its weights, and what the merge wrote beside them."""
    known = {*written, *shards, CARD, RECEIPT}
    sent, left = [], {}
    for name, file in files.items():
        reason = _unsent(file)
        if not reason and name not in known:
            reason = next((why for patterns, why in _NEVER if _files.like(name, patterns)), "")
            if not reason and not (_any(name, (*_WORDS, *include)) or _shown(name, card)):
                reason = "the merge did not write it (--include it)"
        if not reason and _any(name, exclude) and name not in shards:
            reason = "left out by --exclude"
        if reason:
            left[name] = reason
        else:
            sent.append(name)
    return _safe(sent, left)


def _unsent(file: File) -> str:
    """Say why a file is never sent, whatever it is called."""
    if file.kind == "outside":
        return "a link that leaves the folder"
    if file.kind == "other":
        return "no plain file"
    if any(part.startswith(".") for part in file.name.split("/")):
        return "hidden"
    if _files.pointed(file) is not None:
        return "a Git LFS pointer in place of the file (`git lfs pull`)"
    return ""


def _elsewhere(name: str, homes: Iterable[str]) -> str:
    home = next((home for home in homes if name.startswith(home)), "")
    return f"of another adapter, in {home}: upload that to a repository of its own" if home else ""


def _kept(name: str, files: Collection[str], include: Sequence[str]) -> str:
    """Say why a file stays at home because of what it is."""
    if name == PICKLED:
        return f"{WEIGHTS} is read in its place" if WEIGHTS in files else ""
    if why := next((why for patterns, why in _NEVER if _files.like(name, patterns)), ""):
        return why
    if _any(name, include):
        return ""
    if _files.top(name) and _files.like(name, _files.WHOLE):
        return "of a whole model, which has a repository of its own"
    if _files.like(name, (*_files.CODE, *_files.SCRIPTS)):
        return "code, and an adapter needs none (--include it)"
    return ""


def _wanted(name: str, include: Sequence[str], card: str) -> bool:
    ours = any(_files.top(name) or "/" in pattern for pattern in _ADAPTER if _fits(name, pattern))
    return ours or _any(name, include) or _shown(name, card)


def _shown(name: str, card: str) -> bool:
    """Tell whether the card shows this picture."""
    found = _any(name, _PICTURES)
    return found and re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", card) is not None


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(_fits(name, pattern) for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    """Match as `hf` does: a star takes slashes too, and a folder is what is in it."""
    return fnmatch.fnmatchcase(name, f"{pattern}*" if pattern.endswith("/") else pattern)


def _safe(sent: list[str], left: dict[str, str]) -> Choice:
    """Take out names that would be no files, or the same ones, on other machines."""
    odd = hub.hostile(sent)
    left.update({name: f"its name {why}" for name, why in odd.items()})
    return Choice(tuple(name for name in sent if name not in odd), dict(sorted(left.items())))
