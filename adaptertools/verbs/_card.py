"""The model card of a merged model: its base, its adapters, and how it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptertools.errors import shown
from adaptertools.report import Finding

_LICENCE = re.compile(r"^license(?:_name|_link)?:.*$", re.MULTILINE)


def card(
    base: str, folder: str, adapters: Sequence[Mapping[str, Any]], options: Mapping[str, Any],
    version: str, findings: Sequence[Finding],
) -> str:  # fmt: skip
    """Write README.md: front matter that the Hub reads, then words for people."""
    head = ["---", f"base_model: {json.dumps(base)}", "base_model_relation: merge",
            "library_name: transformers", "tags:", "- merge", "- adaptertools",
            *_licence(Path(folder)), "---"]  # fmt: skip
    lines = ["", f"# {shown(Path(base).name)} with {len(adapters)} adapter(s) merged in", ""]
    lines += [
        f"Base model: `{shown(base)}`",
        "",
        "| adapter | method | rank | scale |",
        "|-|-|-|-|",
    ]
    for a in adapters:
        lines.append(
            f"| `{shown(a['ref'])}` | {shown(a['method'])} | {a['rank']} | {a['scale']:g} |"
        )
    lines += ["", f"Made by adaptertools {version}. Options: `{json.dumps(dict(options))}`."]
    lines += ["Every edit, with its rounding error, is in `adaptertools.json`.", ""]
    if findings:
        lines += ["## Worth knowing", "", *(f"- {shown(f.text)}" for f in findings), ""]
    return "\n".join(head + lines)


def _licence(folder: Path) -> list[str]:
    """Take the licence lines from the base's own card."""
    try:
        text = (folder / "README.md").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    front = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
    return [shown(line) for line in _LICENCE.findall(front)]
