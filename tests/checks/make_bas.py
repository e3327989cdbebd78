"""Write the examples of the BAS checks: `python -m tests.checks.make_bas`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checks import tiny
from tests.checks.tiny import Arrays

Change = Callable[[Path], None]
NAME = "base_model_name_or_path"
EMBED = "base_model.model.model.embed_tokens.weight"
HEAD = "base_model.model.lm_head.weight"


def both(*changes: Change) -> Change:
    """Make several changes."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def said(**changes: Any) -> Change:
    """Change keys of the config."""
    return lambda folder: tiny.set_config(folder, **changes)


def named(name: str) -> Change:
    """Name another base, in config and card."""

    def change(folder: Path) -> None:
        tiny.set_config(folder, **{NAME: name})
        card = tiny.CARD.replace(tiny.BASE, name, 1).replace("apache-2.0", "llama3")
        (folder / "README.md").write_text(card, "utf-8")

    return change


def based(**config: Any) -> Change:
    """Put a base beside it."""

    def change(folder: Path) -> None:
        tiny.base(folder / "base", **config)
        tiny.set_options(folder, base="base")

    return change


def cached(commit: str) -> Change:
    """Put a base beside it, in folders as the Hub's cache has them."""

    def change(folder: Path) -> None:
        place = f"models--{tiny.BASE.replace('/', '--')}/snapshots/{commit}"
        tiny.base(folder / place)
        tiny.set_options(folder, base=place)

    return change


def asked(answer: str) -> Change:
    """Say what the Hub answers."""
    return lambda folder: tiny.set_options(folder, online={tiny.BASE: answer})


def saved(name: str, rows: int) -> Change:
    """Save a whole module along, and list it."""

    def add(held: Arrays) -> Arrays:
        return {**held, name: tiny.noise(rows, tiny.WIDTH)}

    def change(folder: Path) -> None:
        before = list(json.loads((folder / tiny.CONFIG_FILE).read_text())["modules_to_save"] or [])
        tiny.set_config(folder, modules_to_save=[*before, name.split(".")[-2]])
        tiny.set_tensors(folder, add)

    return change


EXAMPLES: dict[str, tuple[Change, Change | None]] = {
    "BAS001": (said(**{NAME: None}), None),
    "BAS002": (named("/content/drive/llama-7b-hf"), None),
    "BAS003": (named("gpt2"), None),
    "BAS004": (said(revision="main"), None),
    "BAS005": (asked("missing"), asked("ok")),
    "BAS006": (named("unsloth/llama-3-8b-bnb-4bit"), None),
    "BAS007": (based(num_hidden_layers=1), based()),
    "BAS008": (
        both(saved(HEAD, tiny.VOCAB + 1), based()),
        both(saved(HEAD, tiny.VOCAB), based()),
    ),
    "BAS009": (
        both(saved(EMBED, tiny.VOCAB), based(tie_word_embeddings=True)),
        both(saved(EMBED, tiny.VOCAB), saved(HEAD, tiny.VOCAB), based(tie_word_embeddings=True)),
    ),
    "BAS010": (
        both(said(task_type="SEQ_CLS"), based()),
        both(said(task_type="SEQ_CLS"), saved("base_model.model.score.weight", 2), based()),
    ),
    "BAS011": (cached("f" * 40), cached(tiny.CONFIG["revision"])),
}


def main() -> None:
    """Write them all."""
    for code, (spoil, vary) in EXAMPLES.items():
        good, bad = tiny.pair(code)
        spoil(bad)
        if vary:
            vary(good)


if __name__ == "__main__":
    main()
