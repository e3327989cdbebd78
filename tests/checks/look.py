"""Run the CFG checks on a config without a folder around it."""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from adaptertools import jsontext
from adaptertools.checks import catalogue
from adaptertools.dialect import dialect
from adaptertools.facts import Facts, File, Found, Weights
from adaptertools.verbs.validate import MOST

CHECKS = [check for code, check in catalogue().items() if code.startswith("CFG")]
GOOD: Mapping[str, Any] = {
    "base_model_name_or_path": "org/base",
    "inference_mode": True,
    "lora_alpha": 16,
    "peft_type": "LORA",
    "r": 8,
    "target_modules": ["q_proj"],
}


def facts(
    config: object, files: tuple[str, ...] = (), peft_version: str | None = None,
    weights: Weights | None = None,
) -> Facts:  # fmt: skip
    """Give what is known of a folder with this config, given as bytes or as a JSON value."""
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    text = jsontext.read(data)
    kind = dialect(data, text.value, files)
    peft = kind == "peft" and isinstance(text.value, dict)
    return Facts(
        folder=Path(), ref="", dialect=kind, text=text, config=text.value if peft else None,
        files={n: File(name=n, path=Path(n), size=1, kind="file") for n in files},
        peft_version=peft_version, weights=weights,
    )  # fmt: skip


def look(config: object, **known: Any) -> list[tuple[str, str, Found]]:
    """Give what the CFG checks find: code, level and finding."""
    held = facts(config, **known)
    return [
        (check.code, found.level or check.level, found)
        for check in CHECKS
        if not check.missing(held)
        for found in islice(check.look(held), MOST)
    ]


def errors(config: object, **known: Any) -> set[str]:
    """Give the codes of the errors."""
    return {code for code, level, _ in look(config, **known) if level == "error"}
