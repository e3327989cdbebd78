"""The facts of an adapter of another format than PEFT's: its tensors as PEFT would store them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adaptertools.facts import Data, Facts, Weights
from adaptertools.formats._normal import PT
from adaptertools.ref import parse
from adaptertools.verbs._foreign import Foreign
from adaptertools.verbs._place import Place, listed


def alone(found: Foreign, thing: str | Path) -> Place:
    """Take a file that was named for all that there is."""
    files = {name: file for name, file in listed(found.folder).items() if name == found.file}
    return Place(folder=found.folder, files=files, ref=parse(thing))


def with_foreign(facts: Facts, found: Foreign, *, deep: bool) -> Facts:
    """Give the facts with what the format's reader made of the adapter, or why it made nothing."""
    adapter, why = found.adapter, dict(facts.why)
    if adapter is None:
        why |= {"weights": found.fault, "config": "the weights were not read"}
        return replace(facts, dialect=found.format, foreign=found.file, why=why, weights=None)
    weights = Weights(file=found.file, tensors=adapter.tensors, metadata=PT)
    return replace(
        facts, dialect=found.format, foreign=found.file, weights=weights, config=adapter.config,
        data=Data(weights=weights) if deep else None, text=None,
        why=why | {"text": f"no adapter_config.json of PEFT's ({found.format})"},
    )  # fmt: skip
