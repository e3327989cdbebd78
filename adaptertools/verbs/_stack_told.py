"""What a stack says of itself: card, receipt, and the files that come along."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptertools.blends import meaning
from adaptertools.errors import shown
from adaptertools.report import Finding, plain
from adaptertools.verbs._card import licence
from adaptertools.verbs._stack_match import Named
from adaptertools.version import VERSION

RECEIPT = "adaptertools.stack.json"
_TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
              "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "chat_template.*",
              "normalizer.json", "*processor_config.json")  # fmt: skip
_REPO = re.compile(r"[\w-][\w.-]*(?:/[\w.-]+)?")  # user/name, or the Hub's old one-word names


def short(ref: str) -> str:
    """Name an adapter as others know it: no paths of this machine."""
    return ref if _REPO.fullmatch(ref) and not Path(ref).exists() else Path(ref).name


def card(
    title: str, base: str | None, facts: Mapping[str, Any], saved: Iterable[str],
    folders: Iterable[str],
) -> str:  # fmt: skip
    """Write README.md: front matter that the Hub reads, then sources, weights and figures.

    A licence that every adapter's own card names is named again.
    """
    repo = base if base and _REPO.fullmatch(base) and not Path(base).exists() else None
    head = ["---", *([f"base_model: {json.dumps(repo)}", "base_model_relation: adapter"] if repo
                     else []), "library_name: peft", "tags:", "- lora", "- merge",
            "- adaptertools", *_licence(folders), "---", "", f"# {shown(title)}", ""]  # fmt: skip
    many, options = len(facts["adapters"]), facts["options"]
    how = f"`{options['how']}`" + (" emulated, cross terms and all" if options["emulate"] else "")
    said = "" if options["emulate"] else meaning(options["how"])
    text = [f"{many} LoRA adapter{'s' * (many != 1)} of "
            f"`{shown(repo or Path(base or 'an unnamed base').name)}` in one "
            f"({how}). {said}", "",
            "| adapter | weight | rank | survives |", "|-|-|-|-|"]  # fmt: skip
    for each in facts["adapters"]:
        text.append(f"| `{shown(short(each['ref']))}` | {each['weight']:g} | {each['rank']} | "
                    f"{each['survival']:.2%} |")  # fmt: skip
    text += [
        "",
        f"Rank {facts['rank']} at most, {facts['energy']:.4%} of the energy kept; stored in "
        f"{facts['dtype']}, which is off by {facts['rounding']:.1e} of it. *Survives* is the "
        "cosine between an adapter's update and what of it the stack can hold.",
        "",
    ]
    text += [f"- {shown(line)}" for line in saved]
    text += ["", f"Made by adaptertools {VERSION} from files, without the base; every module is "
             f"in `{RECEIPT}`.", ""]  # fmt: skip
    return "\n".join([*head, *text])


def _licence(folders: Iterable[str]) -> list[str]:
    every = {tuple(licence(Path(folder))) for folder in folders}
    return list(every.pop()) if len(every) == 1 else []


def receipt(
    facts: Mapping[str, Any], base: str | None, findings: Sequence[Finding],
    written: Sequence[Mapping[str, Any]],
) -> str:  # fmt: skip
    """Write the receipt: from what, how, and how exact; no times, so that runs compare."""
    said = {
        "verb": "stack", "version": VERSION, "base": base, **facts,
        "findings": [{"code": f.code, "level": f.level, "text": f.text} for f in findings],
        "written": written,
    }  # fmt: skip
    for key in ("out", "verified"):
        said.pop(key, None)
    return json.dumps(plain(said), indent=1) + "\n"


def beside(named: Sequence[Named]) -> tuple[dict[str, Path], list[Finding]]:
    """Choose the tokenizer files to copy: those of the first adapter that has any."""
    found = [(each, _tokenizer(Path(each.adapter.folder))) for each in named]
    found = [(each, files) for each, files in found if files]
    said = [
        Finding(
            code="STK005", level="warning", place=each.ref,
            text="Its tokenizer files differ from the first adapter's and are not used.",
        )
        for each, files in found[1:]
        if _digests(files) != _digests(found[0][1])
    ]  # fmt: skip
    return (found[0][1] if found else {}), said


def _tokenizer(folder: Path) -> dict[str, Path]:
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch.fnmatchcase(path.name, each) for each in _TOKENIZER)
    }


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
