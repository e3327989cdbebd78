"""What each serving target takes: serving.json, data with sources and versions."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from adaptertools.facts import Profile


@cache
def known() -> dict[str, Profile]:
    """Give every target by its name."""
    table = json.loads(Path(__file__).with_name("serving.json").read_text("utf-8"))
    return {name: Profile(name=name, **said) for name, said in sorted(table.items())}
