"""The base that is published with an adapter: a repository, and never a path of this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from adaptertools import jsontext
from adaptertools.errors import NotFound, Unsafe, Unsupported, shown
from adaptertools.jsonplaces import Places

KEY = "base_model_name_or_path"
_REPO = re.compile(
    r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII
)
# The first word of a folder on somebody's disk, which no owner on the Hub is called.
_FOLDER = re.compile(r"(?i)(?:path|your[\w-]*|models?|saved_models?|checkpoints?|ckpts?|"
                     r"outputs?|results?|weights|local|data|content|tmp|home)/[\w.-]*")  # fmt: skip


def on_hub(name: str) -> bool:
    """Tell whether a name is a repository's, and no folder's here or where it was trained."""
    if not _REPO.fullmatch(name) or _FOLDER.fullmatch(name):
        return False
    try:
        return not Path(name).exists()
    except OSError:
        return True


def choose(named: Any, given: str | None, where: str) -> str:
    """Give the base to publish: the one that was given, else the one that is named.

    Raises Unsupported where the given one is no repository, NotFound where there is none, Unsafe
    where the named one is a path.
    """
    if given is not None:
        if not _REPO.fullmatch(given):
            raise Unsupported(
                f"--base {shown(given)} is no repository on the Hub. Give it as org/model."
            )
        return given
    name = named.strip() if isinstance(named, str) else ""
    if name and on_hub(name):
        return name
    if not name:
        raise NotFound(
            f"{where} names no base model, and without it nobody can load what is published. "
            "Pass the repository it was trained on, as --base org/model."
        )
    raise Unsafe(
        f"{where} names {shown(name)!r} as its base, a path of this machine that leads nowhere on "
        "another. Pass the repository it was trained on, as --base org/model: the copy that is "
        "uploaded will name it."
    )


def renamed(config: bytes, base: str) -> bytes:
    """Give adapter_config.json with another base; nothing else of its text changes."""
    read = jsontext.read(config)
    wanted = {**read.value, KEY: base}
    if KEY in read.value:
        places = Places(read.text)
        at = places.value[places.find(f"/{KEY}")]
        _, stop = json.JSONDecoder().raw_decode(read.text, at)
        text = read.text[:at] + json.dumps(base) + read.text[stop:]
        if json.loads(text) == wanted:
            return text.encode()
    return (json.dumps(wanted, indent=2) + "\n").encode()
