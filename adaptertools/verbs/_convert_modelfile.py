"""Ollama's Modelfile beside a GGUF adapter: which model it belongs to, and where it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from adaptertools.adapter import Adapter
from adaptertools.errors import Unsupported, shown
from adaptertools.report import Finding

NAME = "Modelfile"

# What a user may say: a name or a path. A line more would be a command of its own.
_SAID = re.compile(r"[\w./~:@+\\ -]+")
# What an adapter may: a name, of Ollama's or the Hub's, and no path of this machine.
_NAMED = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*(?::[\w.-]+)?")


def write(
    draft: Path, adapter: Adapter, file: str, source: str, options: Mapping[str, str]
) -> list[Finding]:
    """Write it; the base is what the user called it, its GGUF file, or what the adapter names.

    Raises Unsupported where none of these can be a line of it.
    """
    given = options.get("base_gguf")
    known = source or (str(Path(given).resolve()) if given else "")
    name = known or adapter.base or ""
    if not (_SAID if known else _NAMED).fullmatch(name):
        raise Unsupported(
            f"A Modelfile says FROM which model, and {shown(name) or 'nothing'} cannot be it. Pass "
            "-o from=NAME, as `ollama list` calls the base."
        )
    text = f"# ollama create NAME -f {NAME}\nFROM {name}\nADAPTER ./{file}\n"
    (draft / NAME).write_text(text, "utf-8")
    if known:
        return []
    return [Finding(
        code="CNV031", level="warning", place=NAME, file=NAME,
        text=f"FROM is {shown(name)}, as the adapter calls its base. Ollama may call it otherwise.",
        hint="Pass -o from=NAME, as `ollama list` calls it.",
    )]  # fmt: skip
