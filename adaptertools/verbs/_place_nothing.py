"""A place without an adapter: what it is instead, and where there is one."""

from __future__ import annotations

import fnmatch

from adaptertools import hub
from adaptertools.errors import UnknownFormat, first, shown
from adaptertools.verbs._place import CONFIG, Place

# What a repository is by its files, most telling first.
_KINDS = (
    ("a merged or whole model", ("model*.safetensors", "pytorch_model*.bin", "*.gguf",
                                 "consolidated.*", "tf_model.h5", "flax_model.msgpack")),
    ("a pipeline of diffusers", ("model_index.json",)),
    ("the state of a training run", ("optimizer.*", "trainer_state.json", "rng_state*", "latest")),
    ("a dataset", ("*.parquet", "*.jsonl", "*.csv", "*.arrow", "dataset_infos.json")),
    ("a tokenizer", ("tokenizer*.json", "*.model")),
)  # fmt: skip


def nothing(place: Place, beside: tuple[str, ...]) -> UnknownFormat:
    """Make the error for a place that holds no adapter."""
    where = shown(place.label)
    if len(beside) == 1:
        return UnknownFormat(
            f"{where} holds no adapter itself. There is one in {shown(beside[0])}: give "
            f"{_below(place, beside[0])}."
        )
    if beside:
        return UnknownFormat(
            f"{where} holds no adapter itself. There are {len(beside)} in it: {first(beside, 20)}; "
            f"give one of them, such as {_below(place, beside[0])}."
        )
    return UnknownFormat(
        f"{where} is no adapter of a known format: it has no {CONFIG}{_kind(place)}. "
        f"Found: {first(place.files) or 'nothing'}. Give the "
        f"{'repository' if place.partly else 'folder'} that holds it."
    )


def _below(place: Place, name: str) -> str:
    """Write how the adapter in a subfolder is given."""
    if not place.partly:
        return shown(place.folder / name)
    return shown(f"{hub.repo.named(place.ref)}/{name.rstrip('/')}")


def _kind(place: Place) -> str:
    for kind, marks in _KINDS:
        if any(fnmatch.fnmatchcase(name, mark) for name in place.files for mark in marks):
            return f", and looks like {kind}"
    return ""
