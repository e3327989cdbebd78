"""The model card of a merged model: its base, its adapters, and how it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptertools.errors import shown
from adaptertools.report import Finding

_REPO = re.compile(r"[\w-][\w.-]*(?:/[\w.-]+)?")  # user/name, or the Hub's old one-word names
_WORD = r"""(["']?)[\w.+/-]+\1[ \t]*\n"""
_LICENCE = re.compile(
    rf"^license(?:_name|_link)?:[ \t]+{_WORD}|^license:[ \t]*\n(?:[ \t]*- [\w.+-]+[ \t]*\n)+",
    re.MULTILINE | re.ASCII,
)


def card(
    base: str, named: str | None, folder: str, adapters: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any], version: str, findings: Sequence[Finding],
) -> str:  # fmt: skip
    """Write README.md: front matter that the Hub reads, then words for people.

    The base is named as a repository: what the user gave, or what the adapter was trained on.
    Paths of the machine that merged stay out of it.
    """
    repo = next((name for name in (base, named) if name and _on_hub(name)), None)
    title = repo or Path(base).name
    head = ["---", *([f"base_model: {json.dumps(repo)}"] if repo else []),
            "base_model_relation: merge", "library_name: transformers", "tags:", "- merge",
            "- adaptertools", *licence(Path(folder)), "---"]  # fmt: skip
    text = ["", f"# {shown(title)} with {len(adapters)} adapter(s) merged in", ""]
    text += [f"Base model: `{shown(title)}`", ""]
    text += ["| adapter | method | rank | scale |", "|-|-|-|-|"]
    for a in adapters:
        name = a["ref"] if _on_hub(a["ref"]) else Path(a["ref"]).name
        text.append(f"| `{shown(name)}` | {shown(a['method'])} | {a['rank']} | {a['scale']:g} |")
    text += ["", f"Made by adaptertools {version}. Options: `{json.dumps(dict(options))}`."]
    text += ["Every edit, with its rounding error, is in `adaptertools.json`.", ""]
    if findings:
        text += ["## Worth knowing", "", *(f"- {shown(f.text, 1000)}" for f in findings), ""]
    return "\n".join(head + text)


def _on_hub(name: str) -> bool:
    return _REPO.fullmatch(name) is not None and not Path(name).exists()


def licence(folder: Path) -> list[str]:
    """Take the licence lines from the base's own card, where they are plain words."""
    try:
        text = (folder / "README.md").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    if text[:1] != ["---"] or "---" not in text[1:]:
        return []
    front = "\n".join(text[1 : text.index("---", 1)]) + "\n"
    return [line for match in _LICENCE.finditer(front) for line in match[0].splitlines()]
